"""Keeps a process that has made fake tensors able to fork others that train.

Fake tensors set up a device that is not there, for those that claim to be on it. The next backward
pass starts a thread for it, and PyTorch lets no forked process run another one from then on.
"""

from unittest.mock import patch

import torch

_NAME = "_ensureCUDADeviceGuardSet"
_SET_UP = getattr(torch._C, _NAME)


def keep_forks_possible():
    """Leave out the device, which exports and compilation on the CPU do without."""
    setattr(torch._C, _NAME, lambda: None)


def device_that_is_not_there():
    """A context in which fake tensors may claim to be on a CUDA device."""
    return patch.object(torch._C, _NAME, _SET_UP)
