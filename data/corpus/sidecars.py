"""Files that lie beside images and are none of a corpus, by their names alone.

    a.tif.ovr  a.msk  a.tif.aux.xml  a.tif.xml  a.tfw  a.prj      overviews, masks, world files
    a.jpg.tmp  a.jpg.part  a.jpg_original  a.jpg.bak  a.jpg~      unfinished downloads, old copies
    Thumbs.db  desktop.ini  @eaDir/  __MACOSX/                    of a system's file browser

A name that ends as an image's does is an image (`a_ovr.tif`, `a_mask.png`), whatever it was to
whoever wrote it. A text, a list or an archive is no sidecar, and is rejected when it is read.
"""

from __future__ import annotations

import re

THUMBNAILS = frozenset({"@eaDir", "__MACOSX"})
"""Folders of thumbnails and file attributes that systems leave among images."""
_BROWSERS = frozenset({"thumbs.db", "ehthumbs.db", "desktop.ini", "picasa.ini"})
_GIS = re.compile(
    r"\.(?:ovr|msk|aux\.xml|aux|rrd|prj|wld|(?:tiff?|tf|jpe?g|jg|png|pg|jp2|j2|bmp|bp|gif|gf)w)$",
    re.IGNORECASE,
)
_BESIDE = re.compile(  # what follows the whole name of an image
    r"\.(?:jpe?g|png|tiff?|jp2|webp|bmp|gif)"
    r"(\.xml|_original|~|\.(?:te?mp(?:-\d+)?|part|partial|crdownload|download|aria2|bak|orig|old"
    r"|md5|sha\d+|lock|enp|hdr))$",
    re.IGNORECASE,
)


def sidecar(key: str) -> str:
    """What kind of sidecar a path's file is, such as '.ovr' or '.tmp'; '' for none."""
    name = key.rpartition("/")[2]
    if name.lower() in _BROWSERS:
        return name
    if found := _GIS.search(name):
        return found[0].lower()
    if found := _BESIDE.search(name):
        return re.sub(r"-\d+$", "", found[1].lower())
    return ""
