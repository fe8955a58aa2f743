"""The build backend of pyproject.toml: this repository is used as a checkout."""


def _refuse(*_: object, **__: object) -> str:
    raise SystemExit(
        "RS-Prune is a checkout, not a package: a wheel would put 'data' and 'eval' into your "
        "site-packages. Use it where it is (bash scripts/test.sh makes its environment), or put "
        "sys.path.insert(0, '/path/to/the/checkout') into your notebook (docs/python.md)."
    )


build_wheel = build_sdist = build_editable = prepare_metadata_for_build_wheel = _refuse
