"""The pretended CUDA device finds what it is there to find."""

from __future__ import annotations

import copy
import io
from concurrent.futures import ThreadPoolExecutor

import pytest
import torch
from pretended_cuda import pretended_cuda, stored_on_cuda
from torch import nn


def numbers() -> torch.Tensor:
    return torch.arange(6.0).view(2, 3)


def test_a_tensor_says_it_is_on_the_gpu_and_comes_back_as_it_was() -> None:
    with pretended_cuda():
        there = (2 * numbers().to("cuda")).cuda()
        assert there.device == torch.device("cuda", 0)
        assert there.is_cuda
        assert not there.is_cpu
        back = there.cpu()
        assert (back.device.type, back.is_cuda) == ("cpu", False)
    assert back.equal(2 * numbers())


def test_nothing_is_left_of_the_device_after_the_block() -> None:
    before = torch.cuda.is_available, torch.Generator, torch.load, torch.cuda.graph
    with pretended_cuda():
        assert torch.cuda.is_available()
    assert (torch.cuda.is_available, torch.Generator, torch.load, torch.cuda.graph) == before


def test_tensors_of_two_devices_in_one_operation_raise() -> None:
    with pretended_cuda(), pytest.raises(RuntimeError, match="found at least two devices, cuda:0"):
        numbers().to("cuda") + numbers()


def test_a_single_number_of_the_cpu_goes_with_the_kernel() -> None:
    with pretended_cuda() as ledger:
        there = torch.ones(2, device="cuda")
        ledger.reset()
        there * torch.tensor(2.0)
    assert ledger.counts() == (1, 0, 0, 0)


def test_a_generator_of_the_cpu_for_tensors_of_the_gpu_raises() -> None:
    with pretended_cuda():
        cpu, gpu = torch.Generator(), torch.Generator("cuda")
        with pytest.raises(RuntimeError, match="Expected a 'cuda' device type for generator"):
            torch.randn(2, device="cuda", generator=cpu)
        with pytest.raises(RuntimeError, match="Expected a 'cuda' device type for generator"):
            torch.zeros(2, device="cuda").normal_(generator=cpu)
        assert torch.randn(2, device="cuda", generator=gpu).is_cuda


def test_numpy_cannot_reach_the_gpu() -> None:
    with pretended_cuda(), pytest.raises(TypeError, match="can't convert cuda:0 device type"):
        numbers().to("cuda").numpy()


@pytest.mark.parametrize(
    "read",
    [
        lambda x: x.sum().item(),
        lambda x: float(x[0, 0]),
        lambda x: bool((x > 0).any()),
        lambda x: x.tolist(),
        lambda x: x.cpu(),
        lambda x: x.nonzero(),
        lambda x: x[x > 1],
        lambda x: x.unique(),
        lambda x: torch.cuda.synchronize(),
        lambda x: torch.cuda.current_stream().synchronize(),
        lambda x: torch.zeros(2, 3).copy_(x),
    ],
)
def test_what_the_host_must_know_waits_once(read) -> None:  # type: ignore[no-untyped-def]
    with pretended_cuda() as ledger:
        there = numbers().to("cuda")
        ledger.reset()
        read(there)
    assert (ledger.counts().waits, ledger.counts().blocking) == (1, 0)


def test_a_wait_is_known_by_its_line() -> None:
    with pretended_cuda() as ledger:
        numbers().to("cuda").sum().item()
    assert all("tests/pretended/test_pretended_cuda.py:" in line for line in ledger.waits)


def test_only_a_non_blocking_copy_of_pinned_memory_does_not_block() -> None:
    with pretended_cuda() as ledger:
        pageable, pinned = numbers(), numbers().pin_memory()
        assert (pageable.is_pinned(), pinned.is_pinned()) == (False, True)
        for tensor, non_blocking, blocking in (
            (pageable, False, 1),
            (pageable, True, 1),
            (pinned, False, 1),
            (pinned, True, 0),
        ):
            ledger.reset()
            tensor.to("cuda", non_blocking=non_blocking)
            torch.empty(2, 3, device="cuda").copy_(tensor, non_blocking=non_blocking)
            assert ledger.counts()[1:] == (2 * blocking, 0, 2 - 2 * blocking)


def test_an_index_of_the_cpu_is_a_blocking_copy() -> None:
    with pretended_cuda() as ledger:
        there = numbers().to("cuda")
        ledger.reset()
        assert there[torch.tensor([1])].is_cuda
        assert ledger.counts() == (1, 1, 0, 0)


def test_views_launch_nothing_and_kernels_one_each() -> None:
    with pretended_cuda() as ledger:
        there = torch.ones(2, 3, device="cuda")
        ledger.reset()
        there.t()[0].view(-1).exp_().add(1)
    assert ledger.counts().launches == 2


def test_a_multi_tensor_launch_takes_so_many_tensors() -> None:
    with pretended_cuda() as ledger:
        many = [torch.ones(2, device="cuda") for _ in range(111)]
        ledger.reset()
        torch._foreach_mul_(many, 2.0)
        assert ledger.counts().launches == 2
        assert many[-1].tolist() == [2, 2]


def test_a_training_step_is_that_of_the_cpu() -> None:
    def trained(device: str) -> nn.Module:
        torch.manual_seed(0)
        network = nn.Sequential(
            nn.Conv2d(3, 4, 3), nn.BatchNorm2d(4), nn.Flatten(), nn.Linear(64, 2)
        )
        network = copy.deepcopy(network.to(device))
        adam = torch.optim.Adam(network.parameters(), 0.1)
        for _ in range(3):
            adam.zero_grad()
            network(torch.ones(2, 3, 6, 6).to(device)).square().sum().backward()
            adam.step()
        return network.cpu()

    with pretended_cuda() as ledger:
        there = trained("cuda")
        assert ledger.counts().launches > 20
    here = trained("cpu")
    for one, other in zip(there.parameters(), here.parameters(), strict=True):
        assert torch.allclose(one, other, atol=1e-6)


def test_autocast_computes_in_the_lower_precision() -> None:
    with pretended_cuda(), torch.autocast("cuda", torch.bfloat16):
        layer = nn.Linear(3, 2).to("cuda")
        product = layer(numbers().to("cuda"))
        assert product.dtype == torch.bfloat16
        assert product.softmax(1).dtype == torch.float32


def test_threads_see_the_device_too() -> None:
    with pretended_cuda(), ThreadPoolExecutor(1) as pool:
        assert pool.submit(lambda: numbers().to("cuda").is_cuda).result()


def test_data_of_a_parameter_can_be_exchanged() -> None:
    with pretended_cuda():
        weight = nn.Parameter(torch.zeros(2)).to("cuda")
        weight.data = torch.ones(2, device="cuda")
        assert (weight + 1).tolist() == [2, 2]


def graph_of(function) -> torch.cuda.CUDAGraph:  # type: ignore[no-untyped-def]
    graph = torch.cuda.CUDAGraph()
    with torch.cuda.graph(graph):
        function()
    return graph


def test_a_graph_is_one_launch_and_runs_only_when_it_is_replayed() -> None:
    with pretended_cuda() as ledger:
        total, step = torch.zeros(2, device="cuda"), torch.ones(2, device="cuda")
        results = []
        graph = graph_of(lambda: results.append(total.add_(step) * 2 + 1))
        assert total.tolist() == [0, 0]
        assert results[0].isnan().all().item()
        step.copy_(torch.tensor([3.0, 4.0]))
        ledger.reset()
        for _ in range(2):
            graph.replay()
        assert ledger.counts() == (2, 0, 0, 0)
        assert (total.tolist(), results[0].tolist()) == ([6, 8], [13, 17])


def test_a_captured_training_step_learns_as_an_eager_one() -> None:
    def losses(captured: bool) -> list[float]:
        torch.manual_seed(0)
        layer = nn.Linear(3, 1).to("cuda")
        adam = torch.optim.Adam(layer.parameters(), 0.01, fused=True, capturable=captured)
        inputs, loss = numbers().to("cuda"), torch.zeros((), device="cuda")

        def step() -> None:
            adam.zero_grad(set_to_none=True)
            found = layer(inputs).square().mean()
            found.backward()
            adam.step()
            loss.copy_(found.detach())

        adam._warned_capturable_if_run_uncaptured = True
        step()
        again = graph_of(step).replay if captured else step
        seen = []
        for _ in range(3):
            again()
            seen.append(loss.item())
        return seen

    with pretended_cuda():
        eager, captured = losses(False), losses(True)
    assert eager == pytest.approx(captured)
    assert eager[0] > eager[-1]


@pytest.mark.parametrize(
    "touch",
    [
        lambda x: x.sum().item(),
        lambda x: x.cpu(),
        lambda x: numbers().to("cuda"),
        lambda x: torch.tensor([1.0], device="cuda"),
        lambda x: x[torch.tensor([0])],
        lambda x: torch.cuda.synchronize(),
    ],
)
def test_host_memory_in_a_graph_raises(touch) -> None:  # type: ignore[no-untyped-def]
    with pretended_cuda():
        there = numbers().to("cuda")
        with pytest.raises(RuntimeError, match="not permitted when stream is capturing"):
            graph_of(lambda: touch(there))


def test_an_optimiser_that_cannot_be_captured_raises() -> None:
    with pretended_cuda():
        adam = torch.optim.Adam([nn.Parameter(torch.ones(2, device="cuda"))])
        with pytest.raises(RuntimeError, match="capturable is False"):
            graph_of(adam.step)


def test_files_remember_which_tensors_were_on_the_gpu() -> None:
    file = io.BytesIO()
    with pretended_cuda():
        torch.save({"there": numbers().to("cuda"), "here": numbers()}, file)
        file.seek(0)
        loaded = torch.load(file, weights_only=True)
        assert (loaded["there"].is_cuda, loaded["here"].is_cuda) == (True, False)
    for said in (file, io.BytesIO()):
        if said is not file:
            with stored_on_cuda():
                torch.save(numbers(), said)
        said.seek(0)
        with pytest.raises(RuntimeError, match="Attempting to deserialize object on a CUDA"):
            torch.load(said, weights_only=True)
        said.seek(0)
        assert torch.load(said, weights_only=True, map_location="cpu") is not None
