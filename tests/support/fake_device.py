"""A CUDA device that is not there: tensors that claim to be on it, and a guard against waiting.

Fake tensors have shapes and a device but no values, so an operation that needs a value raises:
``.item()``, ``nonzero``, a boolean selection. What they let pass although a real device would wait
for it, :class:`NoWaits` refuses.
"""

from contextlib import ExitStack, contextmanager
from unittest.mock import patch

import torch
from pytorch_lightning.accelerators import CPUAccelerator
from pytorch_lightning.strategies import SingleDeviceStrategy
from torch._subclasses.fake_tensor import FakeTensorMode
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_leaves

from support.forks import device_that_is_not_there

CUDA = torch.device("cuda:0")
_COPIES = (torch.ops.aten._to_copy, torch.ops.aten.copy_, torch.ops.aten._foreach_copy_)
_BY_INDEX = (torch.ops.aten.index, torch.ops.aten.index_put, torch.ops.aten.index_put_)


class Waits(AssertionError):
    """An operation that waits for the device."""


class NoWaits(TorchDispatchMode):
    """Refuses copies between host and device, indices on the host, and masks as indices.

    Attributes:
        is_on: whether it looks.
        num_operations: how many it has seen.
        products: types of the results of convolutions and matrix products.
    """

    def __init__(self):
        super().__init__()
        self.is_on = True
        self.num_operations = 0
        self.products = set()

    def __torch_dispatch__(self, func, types, args=(), kwargs=None):
        kwargs = kwargs or {}
        if not self.is_on:
            return func(*args, **kwargs)
        self.num_operations += 1
        tensors = [each for each in tree_leaves((args, kwargs)) if isinstance(each, torch.Tensor)]
        packet = func.overloadpacket
        if packet in _BY_INDEX:
            for index in (each for each in args[1] if each is not None):
                if index.dtype in (torch.bool, torch.uint8):
                    raise Waits(f"{func}: a mask as an index")
                if index.device != args[0].device:
                    raise Waits(f"{func}: an index on {index.device} for {args[0].device}")
        # A number on the host travels with the launch, as a Python number does.
        devices = {each.device.type for each in tensors if each.ndim or packet in _COPIES}
        out = func(*args, **kwargs)
        results = [each for each in tree_leaves(out) if isinstance(each, torch.Tensor)]
        if packet in _COPIES:
            devices |= {each.device.type for each in results}
        if len(devices) > 1:
            raise Waits(f"{func}: tensors on {' and '.join(sorted(devices))}")
        if packet in (torch.ops.aten.convolution, torch.ops.aten.mm, torch.ops.aten.addmm):
            self.products |= {each.dtype for each in results}
        return out

    def may_wait(self, function):
        """A function in which the host may wait: nothing in it is refused."""

        def allowed(*args, **kwargs):
            was_on, self.is_on = self.is_on, False
            try:
                return function(*args, **kwargs)
            finally:
                self.is_on = was_on

        return allowed


class FakeAccelerator(CPUAccelerator):
    """A device that needs no set-up."""

    def setup_device(self, device):
        """Nothing is there to be set up."""


class FakeStrategy(SingleDeviceStrategy):
    """Lets Lightning train on the device that is not there, with a model that is on it already."""

    def __init__(self):
        super().__init__(CUDA, accelerator=FakeAccelerator())

    def model_to_device(self):
        """It is there."""

    def teardown(self):
        """It stays there."""


def to_fake_device(module, mode):
    """Replace a module's parameters and buffers by fake ones on the device."""

    def fake(tensor):
        strided = tensor.shape, tensor.stride()
        return torch.empty_strided(*strided, dtype=tensor.dtype, device=CUDA)

    with mode:
        for each in module.modules():
            for name, parameter in each._parameters.items():
                if parameter is not None:
                    each._parameters[name] = torch.nn.Parameter(fake(parameter))
            for name, buffer in each._buffers.items():
                if buffer is not None:
                    each._buffers[name] = fake(buffer)
    return module


def backward(tensor, gradient=None, **_):
    """Run a backward pass node by node: PyTorch's engine would ask the device's driver."""
    root = tensor.grad_fn
    waiting, stack = {root: 0}, [root]  # how many gradients each node waits for
    while stack:
        for node, _ in stack.pop().next_functions:
            if node is not None:
                if node not in waiting:
                    waiting[node] = 0
                    stack.append(node)
                waiting[node] += 1
    arrived = {root: {0: torch.ones_like(tensor) if gradient is None else gradient}}
    ready = [root]
    with torch.no_grad():
        while ready:
            node = ready.pop()
            given, metadata = arrived.pop(node, {}), node._input_metadata
            gradients = [_fitted(given.get(i), each) for i, each in enumerate(metadata)]
            passed = node(*gradients) if given else [None] * len(node.next_functions)
            passed = passed if isinstance(passed, (tuple, list)) else (passed,)
            for (following, i), value in zip(node.next_functions, passed, strict=False):
                if following is None:
                    continue
                if value is not None:
                    slot = arrived.setdefault(following, {})
                    slot[i] = slot[i] + value if i in slot else value
                waiting[following] -= 1
                if not waiting[following]:
                    ready.append(following)


def _fitted(gradient, metadata):
    """A gradient in the shape and type of what it belongs to."""
    return gradient if gradient is None else gradient.sum_to_size(metadata.shape).to(metadata.dtype)


@contextmanager
def fake_cuda():
    """Fake tensors may claim to be on CUDA, autocast stays on, and ``backward`` runs without it.

    Yields:
        The mode in which tensors are fake.
    """
    mode = FakeTensorMode(allow_non_fake_inputs=False)
    with ExitStack() as stack:
        for name, value in (
            ("torch.cuda.amp.common.amp_definitely_not_available", lambda: False),
            ("torch.cuda.is_bf16_supported", lambda *_: True),
            ("torch.Tensor.backward", backward),
            ("torch.Tensor.__deepcopy__", lambda self, _: self.detach().clone()),
        ):
            stack.enter_context(patch(name, value))
        stack.enter_context(device_that_is_not_there())
        yield mode
