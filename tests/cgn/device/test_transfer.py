"""What is sent to a GPU and what comes back: the same, in order, and without the host waiting."""

from __future__ import annotations

import threading

import pytest
import torch
from pretended_cuda import pretended_cuda
from torch import Tensor

from cgn.data.factors import Factors
from cgn.data.image_set import ImageSet
from cgn.device.memory import in_batches
from cgn.device.transfer import Mailbox, sent, sent_ahead


def numbers(n: int = 10) -> Tensor:
    return torch.arange(n)


def some_images(n: int = 10) -> ImageSet:
    pixels = torch.arange(n, dtype=torch.uint8).view(n, 1, 1, 1).expand(n, 3, 4, 4).contiguous()
    return ImageSet(pixels, Factors.aligned(numbers(n)), numbers(n), pixels[:, :1])


def test_nobody_waits_for_what_is_sent_to_a_gpu() -> None:
    with pretended_cuda() as ledger:
        there = sent(numbers(), "cuda")
        counts = ledger.counts()
        assert there.cpu().equal(numbers())
    assert (counts.copies, counts.blocking, counts.waits) == (1, 0, 0)


def test_what_is_on_a_cpu_stays_there_uncopied() -> None:
    here = numbers()
    assert sent(here, "cpu") is here


def test_batches_arrive_in_order_without_a_blocking_copy() -> None:
    indices = numbers(11).split(3)
    with pretended_cuda() as ledger:
        there = list(sent_ahead(lambda index: 2 * index, indices, "cuda"))
        counts = ledger.counts()
        assert [batch.tolist() for batch in there] == [(2 * index).tolist() for index in indices]
    assert (counts.copies, counts.blocking, counts.waits) == (4, 0, 0)


def test_no_more_batches_are_read_than_two_ahead() -> None:
    read: list[int] = []
    lock = threading.Lock()

    def noted(index: Tensor) -> Tensor:
        with lock:
            read.append(int(index[0]))
        return index

    batches = sent_ahead(noted, numbers(8).split(1), "meta")
    for taken in range(1, 4):
        next(batches)
        assert max(read) <= taken + 1


def test_an_error_while_reading_reaches_who_asks_for_the_batch() -> None:
    def broken(index: Tensor) -> Tensor:
        raise ValueError("no image")

    with pytest.raises(ValueError, match="no image"):
        list(sent_ahead(broken, numbers().split(3), "meta"))


@pytest.mark.parametrize("device", ["cpu", "cuda"])
def test_a_mailbox_lays_every_batch_into_its_place(device: str) -> None:
    with pretended_cuda():
        box = Mailbox(torch.zeros(10, dtype=torch.int64))
        for index in numbers().split(4):
            box.put(slice(int(index[0]), int(index[-1]) + 1), sent(index, device))
        assert box.close().equal(numbers())


def test_a_mailbox_waits_for_a_batch_only_when_the_next_one_is_made() -> None:
    with pretended_cuda() as ledger:
        box = Mailbox(torch.zeros(4, dtype=torch.int64))
        there = sent(numbers(2), "cuda")
        ledger.reset()
        box.put(slice(2), there)
        assert ledger.counts().waits == 0
        box.put(slice(2, 4), there)
        assert ledger.counts().waits == 1


@pytest.mark.parametrize("on_gpu", [False, True])
def test_batches_of_a_set_are_the_same_wherever_it_lies(on_gpu: bool) -> None:
    images = some_images()
    expected = list(images.batches(4, generator=torch.Generator().manual_seed(3)))
    with pretended_cuda():
        own = images.resident("cuda") if on_gpu else images
        generator = torch.Generator().manual_seed(3)
        found = list(own.batches(4, device="cuda", generator=generator))
        for (batch, factors), (wanted, labels) in zip(found, expected, strict=True):
            assert batch.cpu().equal(wanted)
            assert factors.texture.cpu().equal(labels.texture)


def test_a_set_lies_on_a_gpu_once_and_stays_where_it_is_on_a_cpu(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    images = some_images()
    assert images.resident("cpu") is images
    with pretended_cuda() as ledger:
        there = images.resident("cuda")
        assert there.pixels.is_cuda
        ledger.reset()
        assert len(list(there.batches(2, device="cuda"))) == 5
        assert ledger.counts().blocking == 0
        monkeypatch.setattr("cgn.data.image_set.RESIDENT_BYTES", images.pixels.nbytes - 1)
        assert images.resident("cuda") is images


def test_a_batch_without_memory_is_halved_from_then_on() -> None:
    spans: list[tuple[int, int]] = []

    def work(span: slice) -> None:
        if span.stop - span.start > 2:
            raise torch.OutOfMemoryError("no memory")
        spans.append((span.start, span.stop))

    told: list[int] = []
    in_batches(9, 8, work, lambda done, n: told.append(done))
    assert spans == [(0, 2), (2, 4), (4, 6), (6, 8), (8, 9)]
    assert told == [2, 4, 6, 8, 9]


def test_a_single_image_without_memory_is_an_error() -> None:
    def work(span: slice) -> None:
        raise torch.OutOfMemoryError("no memory")

    with pytest.raises(torch.OutOfMemoryError):
        in_batches(3, 2, work)
