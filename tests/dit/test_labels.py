"""Class-conditional training, and starting from other checkpoints."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
import torch

from core.errors import UserError
from dit.latents.store import LatentStore
from dit.model import transformer as model
from dit.model.transformer import DiT
from dit.pretraining.labels import LabelledSource, read_labels
from dit.train import main
from dit.training import checkpoint
from dit.training.order import plan_batch
from dit.training.pretrained import start_from
from tests.dit.training import ENV, TINY, flags, latent_store, stats


@pytest.fixture(scope="module")
def store(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return latent_store(tmp_path_factory.mktemp("labels") / "store")


@pytest.fixture(autouse=True)
def _tiny(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(model.MODELS, "tiny", TINY)
    for name, value in ENV.items():
        monkeypatch.setenv(name, value)


def write_labels(path: Path, labels: list[Any], keys: list[str] | None = None) -> Path:
    keys = keys or [f"image-{row:03d}" for row in range(len(labels))]
    pq.write_table(pa.table({"key": keys, "label": labels}), path)
    return path


def shaken(**options: Any) -> DiT:
    torch.manual_seed(1)
    net = DiT(input_size=4, in_channels=4, **{**TINY, **options})
    for parameter in net.parameters():
        if parameter.requires_grad:
            parameter.data.add_(torch.randn_like(parameter) * 0.1)
    return net.eval()


X = torch.randn(3, 4, 4, 4, generator=torch.Generator().manual_seed(0))
T = torch.tensor([1, 9, 800])


def test_labels_are_read_by_key_and_numbered_in_order(tmp_path: Path) -> None:
    path = write_labels(tmp_path / "l.parquet", ["sea", "city", "sea", "farm"])
    found = read_labels(path, ["image-003", "image-000", "image-001"])
    assert found.names == ["city", "farm", "sea"] and found.ids.tolist() == [1, 2, 0]
    numbers = write_labels(tmp_path / "n.parquet", [10, 9, 10, 2])
    assert read_labels(numbers, ["image-000"]).names == ["2", "9", "10"]
    with pytest.raises(UserError, match=r"no label for 1 of 2 images, the first other"):
        read_labels(path, ["image-000", "other"])
    twice = write_labels(tmp_path / "t.parquet", ["a", "b"], ["image-000", "image-000"])
    with pytest.raises(UserError, match="image-000 is both a and b"):
        read_labels(twice, ["image-000"])
    pq.write_table(pa.table({"key": ["a"]}), tmp_path / "c.parquet")
    with pytest.raises(UserError, match="columns key, label"):
        read_labels(tmp_path / "c.parquet", ["a"])


def test_what_a_slot_sees_does_not_depend_on_the_share(store: Path, tmp_path: Path) -> None:
    path = write_labels(tmp_path / "l.parquet", [row % 5 for row in range(50)])
    latents = LatentStore(store)
    source = LabelledSource(latents, read_labels(path, latents.keys), 0.3)
    drops = []
    for step in range(40):
        whole = source.load(plan_batch(7, step, 16, 50))
        parts = [source.load(plan_batch(7, step, 16, 50, slice(a, a + 8))) for a in (0, 8)]
        for name in ("x0", "y", "drop"):
            assert torch.equal(whole[name], torch.cat([part[name] for part in parts]))
        indices = plan_batch(7, step, 16, 50).indices
        assert whole["y"].tolist() == [int(i) % 5 for i in indices]
        drops.append(whole["drop"].float().mean().item())
    assert 0.25 < np.mean(drops) < 0.35


def test_a_conditional_run_is_a_function_of_its_seed(store: Path, tmp_path: Path) -> None:
    path = write_labels(tmp_path / "l.parquet", [f"class{row % 3}" for row in range(50)])
    for name, micro in (("a", "8"), ("b", "2")):
        torch.manual_seed(hash(name) % 1000)  # dropped labels owe nothing to a random state
        more = ("--labels", str(path), "--class-dropout", "0.5", "--per-device", micro)
        assert main(flags(store, tmp_path / name, *more)) == 0
    for one, other in zip(stats(tmp_path / "a"), stats(tmp_path / "b"), strict=True):
        assert one == pytest.approx(other, rel=1e-5)
    net, state = checkpoint.load_model(tmp_path / "a", "raw")
    assert net.num_classes == 3 and state["classes"] == ["class0", "class1", "class2"]
    assert len(net.y_embedder.embedding_table.weight) == 4  # the classes and the null class
    with pytest.raises(UserError, match="labels"):
        main(flags(store, tmp_path / "a", "--labels", str(tmp_path / "none.parquet")))


def test_a_conditional_checkpoint_becomes_unconditional_as_its_null_class(tmp_path: Path) -> None:
    official = shaken(num_classes=7)
    torch.save({"ema": official.state_dict(), "model": official.state_dict()}, tmp_path / "o.pt")
    plain = shaken()
    notes = start_from(plain, tmp_path / "o.pt", "ema")
    assert "null class" in notes[0]
    null = official(X, T, torch.full((3,), official.null_class))
    torch.testing.assert_close(plain(X, T), null, atol=1e-6, rtol=1e-6)


def test_the_label_table_is_kept_or_new(tmp_path: Path) -> None:
    official = shaken(num_classes=7)
    torch.save(official.state_dict(), tmp_path / "o.pt")
    same, other = shaken(num_classes=7), shaken(num_classes=4)
    assert start_from(same, tmp_path / "o.pt", "ema") == []
    y = torch.tensor([0, 3, 6])
    assert torch.equal(same(X, T, y), official(X, T, y))
    (note,) = start_from(other, tmp_path / "o.pt", "ema")
    assert note == "7 classes there, 4 here: a new label table"
    nulls = [net(X, T, torch.full((3,), net.null_class)) for net in (other, official)]
    torch.testing.assert_close(*nulls)
    with pytest.raises(UserError, match=r"another network: .*hidden_size 32 there, 64 here"):
        start_from(shaken(hidden_size=64), tmp_path / "o.pt", "ema")


def test_training_starts_where_the_checkpoint_is(store: Path, tmp_path: Path) -> None:
    official = shaken(num_classes=7)
    torch.save(official.state_dict(), tmp_path / "o.pt")
    still = ("--init", str(tmp_path / "o.pt"), "--learning-rate", "1e-30", "--steps", "1")
    assert main(flags(store, tmp_path / "run", *still)) == 0
    net, _ = checkpoint.load_model(tmp_path / "run", "ema")
    null = official(X, T, torch.full((3,), official.null_class))
    torch.testing.assert_close(net.eval()(X, T), null, atol=1e-5, rtol=1e-5)
    official.x_embedder.proj.bias.data += 1
    torch.save(official.state_dict(), tmp_path / "o.pt")
    with pytest.raises(UserError, match="init"):  # other weights are another run
        main(flags(store, tmp_path / "run", *still))
    assert main(flags(store, tmp_path / "again", "--init", str(tmp_path / "run"))) == 0


@pytest.mark.parametrize("labels", [[0.0] * 50, [["sea"]] * 50, [{"a": 1}] * 50])
def test_labels_of_another_type_are_refused(tmp_path: Path, labels: list[Any]) -> None:
    path = write_labels(tmp_path / "labels.parquet", labels)
    with pytest.raises(UserError, match="expected text or integers"):
        read_labels(path, [f"image-{row:03d}" for row in range(50)])


def test_categories_are_text(tmp_path: Path) -> None:
    path = write_labels(tmp_path / "l.parquet", pa.array(["b", "a", "b"]).dictionary_encode())
    found = read_labels(path, ["image-000", "image-001"])
    assert found.names == ["a", "b"] and found.ids.tolist() == [1, 0]


def test_latents_that_the_patches_do_not_divide_are_refused(tmp_path: Path) -> None:
    odd = latent_store(tmp_path / "odd", rows=4, side=5)
    with pytest.raises(UserError, match=r"tiny does not fit .* no multiple of patch_size 2"):
        main(flags(odd, tmp_path / "run"))


def test_classes_of_another_name_do_not_inherit_a_row(tmp_path: Path) -> None:
    run = tmp_path / "run"
    before = shaken(num_classes=3)
    state = {"model": {"class": "DiT", **before.config}, "latent": {}, "classes": ["a", "b", "c"]}
    tensors = before.state_dict()
    checkpoint.save_checkpoint(run, 1, {"model": tensors, "ema": tensors}, state)
    table = "y_embedder.embedding_table.weight"
    rows = tensors[table]
    same = shaken(num_classes=3)
    assert start_from(same, run, "ema", ["a", "b", "c"]) == []
    assert torch.equal(same.state_dict()[table], rows)
    fresh = DiT(input_size=4, in_channels=4, **TINY, num_classes=3)
    own = fresh.state_dict()[table].clone()
    (note,) = start_from(fresh, run, "ema", ["b", "c", "z"])
    assert "a new label table, the rows of 2 by name" in note
    found = fresh.state_dict()[table]
    assert torch.equal(found[:2], rows[1:3]) and torch.equal(found[2], own[2])
    assert torch.equal(found[3], rows[3])  # the null class


def test_labels_that_do_not_begin_at_0_keep_their_names(shared_data: Path) -> None:
    path = shared_data / "faults" / "labels_not_0_based" / "labels.parquet"
    if not path.is_file():
        pytest.skip(f"not there: {path}")
    found = read_labels(path, ["Beach/beach_55.jpg", "Airport/airport_326.jpg"])
    assert found.names[:3] == ["3", "13", "23"] and found.ids.tolist() == [1, 0]
