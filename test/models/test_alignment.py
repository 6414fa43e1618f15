"""Weights mapped from a file compute the bits that the same weights compute elsewhere."""

from safetensors.torch import load_file, save_file
import torch

from offload_ros.models.alignment import BOUNDARY, align


def test_mapped_weights_move_to_a_boundary_and_keep_their_values(tmp_path):
    torch.manual_seed(0)
    network = torch.nn.Sequential(torch.nn.Linear(5, 7), torch.nn.BatchNorm1d(7)).eval()
    wanted = {name: value.clone() for name, value in network.state_dict().items()}
    # One byte more of names than a boundary: what is mapped then begins at an odd address.
    for extra in range(1, BOUNDARY, 8):
        save_file(wanted, tmp_path / 'w.safetensors', {'x': 'y' * extra})
        network.load_state_dict(load_file(tmp_path / 'w.safetensors'), assign=True)
        align(network)
        for name, value in network.state_dict().items():
            assert value.data_ptr() % BOUNDARY == 0, name
            assert torch.equal(value, wanted[name])
