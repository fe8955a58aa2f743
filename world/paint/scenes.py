"""The registry of scene types. Light on purpose: no array library is imported here."""

from __future__ import annotations

from dataclasses import dataclass

# Land-cover ids of OpenEarthMap, used in every mask of the miniature world.
UNKNOWN, BARE, GRASS, DEVELOPED, ROAD, TREE, WATER, CROP, BUILDING = range(9)
LAND_COVER = (
    "unknown", "bareland", "rangeland", "developed", "road", "tree", "water", "cropland",
    "building",
)  # fmt: skip


@dataclass(frozen=True, slots=True)
class Scene:
    """One scene type.

    Attributes:
        name: class name, also the folder name in the reference set.
        fraction: of the corpus's clean tiles; over all scenes the fractions sum to 1. The long
            tail is that of real crawls: three scenes of low information hold 64 %.
        description: what a tile shows.
        low_information: True for the near-uniform scenes that Stage I should remove.
        labelled: True when the scene is mostly made of land-cover classes worth synthesising,
            so that it may appear among the SR images and the SIS pairs.
    """

    name: str
    fraction: float
    description: str
    low_information: bool = False
    labelled: bool = False


_ALL = (
    Scene("sea", 0.265, "open water: waves, currents, seldom a ship", low_information=True),
    Scene("cloud", 0.205, "overcast, cirrus and fog; the ground is hidden", low_information=True),
    Scene("desert", 0.17, "sand sheets, ripples, dunes and gravel plains", low_information=True),
    Scene("forest", 0.077, "closed or broken canopy of crowns, clearings, a track", labelled=True),
    Scene("fields", 0.086, "parcel mosaic with plough lines, hedges and tracks", labelled=True),
    Scene("mountain", 0.043, "ridges and valleys: scree, alpine grass, woods, snow"),
    Scene("suburb", 0.043, "detached houses with gardens along bending streets", labelled=True),
    Scene("river", 0.026, "a meandering river, banks and point bars, open country", labelled=True),
    Scene("coast", 0.024, "beach, surf lines, shallows, dunes and what lies behind", labelled=True),
    Scene("city", 0.022, "dense grid: perimeter blocks, towers, packed roofs", labelled=True),
    Scene("roads", 0.017, "motorways, interchanges and crossings with traffic", labelled=True),
    Scene("industry", 0.013, "large ribbed roofs, storage tanks, yards, lorries", labelled=True),
    Scene("harbour", 0.009, "quays, piers, moored boats, ships, container stacks", labelled=True),
)

SCENES: dict[str, Scene] = {scene.name: scene for scene in _ALL}
"""Scene types by name, in order of their place in the long tail."""
