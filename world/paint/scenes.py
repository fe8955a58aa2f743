"""The registry of scene types. Light on purpose: no array library is imported here."""

from __future__ import annotations

from dataclasses import dataclass

# Land-cover ids of OpenEarthMap, used in every mask of the miniature world.
UNKNOWN, BARE, GRASS, DEVELOPED, ROAD, TREE, WATER, CROP, BUILDING = range(9)
LAND_COVER = (
    "unknown",
    "bareland",
    "rangeland",
    "developed",
    "road",
    "tree",
    "water",
    "cropland",
    "building",
)


@dataclass(frozen=True, slots=True)
class Scene:
    """One scene type.

    Attributes:
        name: class name, also the folder name in the reference set.
        description: what a tile shows.
        dull: True for the near-uniform scenes that Stage I should remove.
        share: fraction of the corpus's clean tiles; over all scenes the shares sum to 1. The
            long tail is that of real crawls: three dull scenes hold 64 %.
        labelled: True when the scene is mostly made of land-cover classes worth synthesising,
            so that it may appear among the SR images and the SIS pairs.
    """

    name: str
    description: str
    dull: bool
    share: float
    labelled: bool


_ALL = (
    Scene(
        "sea", "open water: wind waves, swell, currents, now and then a ship", True, 0.265, False
    ),
    Scene("cloud", "overcast, cirrus veils and fog; the ground is hidden", True, 0.205, False),
    Scene("desert", "sand sheets, ripples, dunes and gravel plains", True, 0.17, False),
    Scene("forest", "closed or broken canopy of crowns, clearings, a track", False, 0.077, True),
    Scene("fields", "parcel mosaic with plough lines, hedges and tracks", False, 0.086, True),
    Scene("mountain", "ridges and valleys: scree, alpine grass, woods, snow", False, 0.043, False),
    Scene("suburb", "detached houses with gardens along bending streets", False, 0.043, True),
    Scene(
        "river", "a meandering river with banks and point bars in open country", False, 0.026, True
    ),
    Scene("coast", "beach, surf lines, shallows, dunes and what lies behind", False, 0.024, True),
    Scene("city", "dense street grid: perimeter blocks, towers, packed roofs", False, 0.022, True),
    Scene("roads", "motorways, interchanges and crossings with traffic", False, 0.017, True),
    Scene("industry", "large ribbed roofs, storage tanks, yards, lorries", False, 0.013, True),
    Scene("harbour", "quays, piers, moored boats, ships, container stacks", False, 0.009, True),
)

SCENES: dict[str, Scene] = {scene.name: scene for scene in _ALL}
"""Scene types by name, in order of their place in the long tail."""
