"""Records that go from one process to another in batches arrive as they were."""

from __future__ import annotations

from dataclasses import fields, replace
from multiprocessing import Pipe
from typing import Any

import numpy as np

from gfm_pipeline.apps.ingest.files.record_batches import MOST_KEY_SETS, Item, Packer, Unpacker, to_bytes
from gfm_pipeline.apps.ingest.labels.known_keys import KeyKind, KeySet, LabelKey
from gfm_pipeline.apps.ingest.labels.plans import Remark
from gfm_pipeline.apps.ingest.records import PassedOver, Record
from gfm_pipeline.core.contracts.data import BadRecord

KEYS = KeySet((LabelKey("energy", KeyKind.ENERGY, True, "number"),), "energy", None)


def record(n: int, **changes: Any) -> Record:
    values = np.random.default_rng(n).normal(size=(2 * n + 3, 3))
    sound = Record(
        numbers=np.arange(1, n + 1),
        pos=values[:n],
        forces=values[n : 2 * n],
        energy=float(n),
        cell=values[2 * n :],
        pbc=np.array([True, n % 2 == 0, False]),
        group=f"group {n}",
        file="a.xyz",
        file_index=0,
        index=n,
        keys=KEYS,
        stated_keys=(("head", KeyKind.HEAD, str(n)),),
        remarks=(Remark("A remark."),),
    )
    return replace(sound, **changes)


def sent(packer: Packer, unpacker: Unpacker, items: list[Item]) -> list[Item]:
    receive, send = Pipe(duplex=False)
    with receive, send:
        send.send_bytes(to_bytes(packer.pack(items)))
        return list(unpacker.unpack(receive.recv()))


def assert_same(one: Item, other: Item) -> None:
    assert type(one) is type(other)
    if not isinstance(one, Record):
        assert one == other
        return
    for name in (attribute.name for attribute in fields(Record) if attribute.name != "keys"):
        mine, theirs = getattr(one, name), getattr(other, name)
        assert type(mine) is type(theirs), name
        if isinstance(mine, np.ndarray):
            assert mine.dtype == theirs.dtype, name
            assert mine.shape == theirs.shape, name
        assert np.array_equal(mine, theirs) if isinstance(mine, np.ndarray) else mine == theirs, name


def test_records_sound_and_odd_arrive_in_order() -> None:
    items: list[Item] = [
        record(3),
        BadRecord("s", "a.xyz", 4, "unreadable"),
        record(5, forces=None, energy=None, group=None),
        PassedOver("a.xyz", 6, "head is a"),
        record(0),
        record(2, numbers=np.array([1.5, 2.0])),
        record(2, numbers=np.array([1, 2], dtype=np.int32)),
        record(4, pos=np.zeros((3, 3))),
        record(4, forces=np.zeros((4, 3), dtype=np.float32)),
        record(4, forces=[[0.0, 0.0, 0.0]] * 4),
        record(4, cell=np.zeros(3), pbc=np.zeros(1, dtype=bool)),
        record(1),
    ]
    found = sent(Packer(), Unpacker(), items)
    assert len(found) == len(items)
    for one, other in zip(items, found, strict=True):
        assert_same(one, other)
    assert sent(Packer(), Unpacker(), []) == []


def test_batches_share_key_sets() -> None:
    packer, unpacker = Packer(), Unpacker()
    arrived = [sent(packer, unpacker, [record(n), record(n + 1, keys=None)]) for n in range(1, 5)]
    sets = {id(one.keys) for batch in arrived for one in batch if isinstance(one, Record) and one.keys is not None}
    assert len(sets) == 1
    many = [KeySet((LabelKey(f"k{k}", KeyKind.UNKNOWN, False, "number"),)) for k in range(MOST_KEY_SETS + 10)]
    for first in range(0, len(many), 7):
        batch = many[first : first + 7]
        for one, keys in zip(sent(packer, unpacker, [record(1, keys=keys) for keys in batch]), batch, strict=True):
            assert isinstance(one, Record)
            assert one.keys is not None
            assert one.keys.keys == keys.keys


def test_arrays_of_one_record_can_be_changed_alone() -> None:
    one, other = sent(Packer(), Unpacker(), [record(2), record(2)])
    assert isinstance(one, Record)
    assert isinstance(other, Record)
    one.pos[:] = 7.0
    assert np.array_equal(other.pos, record(2).pos)
    assert one.forces is not None
    assert np.array_equal(one.forces, record(2).forces)
