"""What equal means in these tests: the same bits, whatever a NaN carries."""

import torch


def same_bits(one, other):
    if one.shape != other.shape or one.dtype != other.dtype:
        return False
    if not one.is_floating_point():
        return torch.equal(one, other)
    signs = torch.equal(one.signbit() & ~one.isnan(), other.signbit() & ~other.isnan())
    return signs and torch.equal(one.nan_to_num(), other.nan_to_num())


def flat_outputs(model, example):
    """The model's outputs by the names that capture gives them: dictionaries and single tensors."""
    with torch.no_grad():
        result = model(**{name: each.clone() for name, each in example.items()})
    if isinstance(result, torch.Tensor):
        return {'output': result}
    return {name: each for name, each in result.items() if each is not None}


def assert_same(results, expected):
    assert results.keys() == expected.keys()
    for name in expected:
        assert same_bits(results[name], expected[name]), name
