"""Access to groups and values inside an HDF5 file only, since links may lead to other files or in circles."""

from __future__ import annotations

from typing import Any

import h5py

EXPANDED = 1000  # bytes that one compressed byte may stand for
UNWRITTEN = 1 << 20  # largest size in bytes of an array without written data


def own(group: Any, name: str) -> Any:
    """Return the member of a group by name; None if it is missing, or a soft link to a group.

    Raises
    ------
    ValueError
        When it or its values are in another file, or when it claims far more values than were written.
    """
    link = group.get(name, getlink=True) if name in group.keys() else None  # noqa: SIM118 - `in group` follows links
    place = f"{group.name.rstrip('/')}/{name}"
    if isinstance(link, h5py.ExternalLink):
        raise ValueError(f"{place} is a link to another file, which is not followed")
    found = None if link is None else group.get(name)
    if isinstance(link, h5py.SoftLink) and isinstance(found, h5py.Group):
        return None
    if isinstance(found, h5py.Dataset):
        if found.external or found.is_virtual or found.file.filename != group.file.filename:
            raise ValueError(f"the values of {place} lie in another file, which is not read")
        if found.nbytes > max(UNWRITTEN, EXPANDED * found.id.get_storage_size()):
            raise ValueError(f"{place} claims {found.nbytes:,} bytes and holds {found.id.get_storage_size():,}")
    return found
