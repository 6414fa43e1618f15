"""Random programs of over fifty operators: a list of instructions that each frame carries out.

An instruction works on the frame's registers (tensors of two dimensions), on tensors that persist,
and on what was kept of earlier frames. Which registers it takes is counted modulo their number, so
that every list of instructions is a program.
"""

from __future__ import annotations

from dataclasses import dataclass, field
import gc
from typing import Any

from hypothesis import strategies as st
import torch
from torch.nn import functional

ROWS, COLUMNS = 3, 4


@dataclass
class Memory:
    """What a program has, on its device."""

    device: str
    registers: list[torch.Tensor] = field(default_factory=list)
    persistent: list[torch.Tensor] = field(default_factory=list)
    carried: list[torch.Tensor] = field(default_factory=list)
    kept: list[torch.Tensor] = field(default_factory=list)
    results: list[Any] = field(default_factory=list)
    frame: int = 0

    def fit(self, tensor: torch.Tensor, like: torch.Tensor) -> torch.Tensor:
        """``tensor`` in the shape of ``like``."""
        if tensor.shape == like.shape:
            return tensor
        if tensor.t().shape == like.shape:
            return tensor.t()
        return tensor[:1, :1].expand(like.shape)

    def read(self, tensor: torch.Tensor) -> None:
        """Note a tensor's values now: on the CPU, ``x.cpu()`` is ``x``."""
        values = tensor.cpu()
        self.results.append(torch.empty(values.shape, dtype=values.dtype).copy_(values))

    def own(self, tensor: torch.Tensor) -> torch.Tensor:
        """A tensor that may be written to: none of its elements is another one's."""
        return tensor.clone() if 0 in tensor.stride() else tensor


def upload(memory, a, b, k):
    generator = torch.Generator().manual_seed(100 * memory.frame + k)
    rows = ROWS + (k == 7 and memory.frame in (4, 5))
    return torch.randn(rows, COLUMNS, generator=generator).to(memory.device)


def constant_of_host(memory, a, b, k):
    return a + torch.tensor(float(k))


def index_of_host(memory, a, b, k):
    return a[torch.tensor([(k + i) % a.shape[0] for i in range(9)])]


def read_item(memory, a, b, k):
    memory.results.append(a.sum().item())


def read_all(memory, a, b, k):
    memory.read(a)


def read_into(memory, a, b, k):
    memory.results.append(torch.empty(a.shape).copy_(a))


def branch(memory, a, b, k):
    if (a.sum() > k - 4).item():
        return a * 2
    return torch.tanh(a) + 1


def equality(memory, a, b, k):
    memory.results.append((torch.equal(a, memory.fit(b, a)), torch.equal(a, a + 0)))


def keep(memory, a, b, k):
    memory.kept.append(a)


def read_kept(memory, a, b, k):
    if memory.kept:
        memory.read(memory.kept.pop(k % len(memory.kept)))


def change_kept(memory, a, b, k):
    if memory.kept:
        target = memory.own(memory.kept[k % len(memory.kept)])
        target.mul_(0.5)
        memory.read(target)


def carry(memory, a, b, k):
    place = k % len(memory.carried)
    memory.carried[place] = torch.tanh(a + memory.fit(memory.carried[place], a))


def take_carried(memory, a, b, k):
    return memory.carried[k % len(memory.carried)]


def count_up(memory, a, b, k):
    memory.persistent[0].add_(1)


def change_persistent(memory, a, b, k):
    target = memory.persistent[k % 2]
    target.mul_(0.5).add_(memory.fit(a, target))


def change_view_of_persistent(memory, a, b, k):
    target = memory.persistent[1][k % ROWS :, 1:]
    target.copy_(memory.fit(a, target))


def turn_persistent(memory, a, b, k):
    memory.persistent[2].t_()


def take_persistent(memory, a, b, k):
    return memory.persistent[k % 3]


def out_to_persistent(memory, a, b, k):
    target = memory.persistent[1]
    torch.add(memory.fit(a, target), memory.fit(b, target), out=target)


def out_to_new(memory, a, b, k):
    made = torch.empty(0, device=memory.device)
    return torch.mul(a, k + 1, out=made)


def collect(memory, a, b, k):
    ring: list[Any] = [a * 2]
    ring.append(ring)
    del ring
    if k % 2:
        gc.collect()


def write_slice(memory, a, b, k):
    a = memory.own(a)
    a[0] = 1.5
    a[:, k % a.shape[1]] = memory.fit(b, a)[:, 0]
    return a


def unknown_shape(memory, a, b, k):
    found = a[a > 0]
    return torch.cat([found, a.reshape(-1)])[:1] + a


def positions(memory, a, b, k):
    memory.results.append((a > k / 4).nonzero().sum().item())


def several_outputs(memory, a, b, k):
    first, *_ = a.sort(dim=k % 2)[0].split(2, dim=0)
    values, places = first.max(dim=1, keepdim=True)
    return values + places


def changed_scalar(memory, a, b, k):
    return a * (0.25 * memory.frame)


def of_frame(memory, a, b, k):
    return torch.full((ROWS, COLUMNS), float(memory.frame // 3), device=memory.device) + a[:1, :1]


def attention(memory, a, b, k):
    other = memory.fit(b, a)
    return functional.scaled_dot_product_attention(a[None, None], other[None, None], a[None, None])[
        0, 0
    ]


def convolved(memory, a, b, k):
    return functional.conv1d(a[None], a[:, None, :1], padding=1, groups=a.shape[0])[0]


def dropped_out(memory, a, b, k):
    return functional.dropout(a, 0.5)


def normal(memory, a, b, k):
    return torch.empty_like(memory.own(a)).normal_(0, 2)


_PLAIN = {
    'relu': lambda m, a, b, k: torch.relu(a),
    'tanh': lambda m, a, b, k: torch.tanh(a),
    'sigmoid': lambda m, a, b, k: torch.sigmoid(a),
    'exp': lambda m, a, b, k: a.clamp(-4, 2).exp(),
    'abs': lambda m, a, b, k: a.abs(),
    'neg': lambda m, a, b, k: -a,
    'sin': lambda m, a, b, k: a.sin(),
    'gelu': lambda m, a, b, k: functional.gelu(a),
    'clamp': lambda m, a, b, k: a.clamp(-k / 4, 2.0),
    'add': lambda m, a, b, k: torch.add(a, m.fit(b, a), alpha=k),
    'sub': lambda m, a, b, k: a - m.fit(b, a),
    'mul': lambda m, a, b, k: (a * m.fit(b, a)).clamp(-9, 9),
    'div': lambda m, a, b, k: a / (m.fit(b, a).abs() + 1),
    'scale': lambda m, a, b, k: a * k,
    'maximum': lambda m, a, b, k: torch.maximum(a, m.fit(b, a)),
    'where': lambda m, a, b, k: torch.where(a > m.fit(b, a), a, 0.5),
    'softmax': lambda m, a, b, k: a.softmax(k % 2),
    'cumsum': lambda m, a, b, k: a.cumsum(k % 2),
    'flip': lambda m, a, b, k: a.flip(k % 2),
    'roll': lambda m, a, b, k: a.roll(k, 0),
    'sort': lambda m, a, b, k: a.sort(dim=k % 2, descending=k > 3).values,
    'topk': lambda m, a, b, k: a.topk(1, dim=k % 2).values,
    'sum': lambda m, a, b, k: a.sum(k % 2, keepdim=True),
    'mean': lambda m, a, b, k: a.mean(k % 2, keepdim=True).expand(a.shape),
    'matmul': lambda m, a, b, k: torch.tanh(a @ m.fit(b, a).t()),
    'addmm': lambda m, a, b, k: torch.tanh(torch.addmm(a[:1, :1], a.t(), m.fit(b, a))),
    'layer_norm': lambda m, a, b, k: functional.layer_norm(a, a.shape[1:], eps=1e-5 * (k + 1)),
    'cat': lambda m, a, b, k: torch.cat([a, m.fit(b, a)], k % 2)[:5, :5],
    'stack': lambda m, a, b, k: torch.stack([a, m.fit(b, a)])[k % 2],
    'transpose': lambda m, a, b, k: a.t(),
    'slice': lambda m, a, b, k: a[k % a.shape[0] :],
    'step': lambda m, a, b, k: a[:, :: k % 3 + 1],
    'reshape': lambda m, a, b, k: a.reshape(1, -1)[:, :12],
    'contiguous': lambda m, a, b, k: a.t().contiguous(),
    'unsqueeze': lambda m, a, b, k: a.unsqueeze(0).mul(2).squeeze(0),
    'index_select': lambda m, a, b, k: a.index_select(0, a.argmax(0) % a.shape[0]),
    'gather': lambda m, a, b, k: a.gather(0, a.argsort(0)),
    'masked_fill': lambda m, a, b, k: a.masked_fill(a > 1, k / 2),
    'tril': lambda m, a, b, k: a.tril(k % 3 - 1),
    'half': lambda m, a, b, k: a.half().float(),
    'double': lambda m, a, b, k: a.double().add(1e-9).float(),
    'whole': lambda m, a, b, k: a.clamp(-99, 99).int().bitwise_and(k).float(),
    'pad': lambda m, a, b, k: functional.pad(a, (1, 0), value=float(k))[:, :5],
    'pool': lambda m, a, b, k: functional.max_pool1d(a[None], 1)[0],
    'add_': lambda m, a, b, k: m.own(a).add_(m.fit(b, a).clone()),
    'relu_': lambda m, a, b, k: m.own(a).relu_(),
    'clamp_': lambda m, a, b, k: m.own(a).clamp_(-1, 1),
    'scale_row_': lambda m, a, b, k: m.own(a)[0].mul_(0.5).unsqueeze(0),
    't_': lambda m, a, b, k: a.clone().t_(),
    'fill_': lambda m, a, b, k: torch.empty_like(a).fill_(k),
    'arange': lambda m, a, b, k: torch.arange(k + 1.0, device=m.device)[None] + a[:1, :1],
    'linspace': lambda m, a, b, k: torch.linspace(0, k, 4, device=m.device)[None] * a[:1, :1],
    'eye': lambda m, a, b, k: torch.eye(3, device=m.device) + a[:1, :1],
    'rand': lambda m, a, b, k: torch.rand(ROWS, COLUMNS, device=m.device),
    'randn_like': lambda m, a, b, k: torch.randn_like(m.own(a)) + a,
    'bernoulli': lambda m, a, b, k: torch.bernoulli(torch.sigmoid(a)),
}
_SPECIAL = [
    upload, upload, constant_of_host, index_of_host, read_item, read_all, read_into, branch,
    equality, keep, keep, read_kept, change_kept, carry, take_carried, count_up,
    change_persistent, change_view_of_persistent, turn_persistent, take_persistent,
    out_to_persistent, out_to_new, collect, write_slice, unknown_shape, positions,
    several_outputs, changed_scalar, of_frame, attention, convolved, dropped_out, normal,
]  # fmt: skip
ACTIONS = [*_PLAIN.items(), *((each.__name__, each) for each in _SPECIAL)]


@dataclass(frozen=True)
class Instruction:
    """``when``: in each frame (0), or in the frames 4 and later that have this remainder by 4."""

    action: int
    a: int
    b: int
    k: int
    when: int

    def __repr__(self) -> str:
        return f'{ACTIONS[self.action][0]}({self.a}, {self.b}, {self.k}, when={self.when})'

    def run(self, memory: Memory) -> None:
        """Carry it out, if it is time."""
        if self.when and (memory.frame < 4 or memory.frame % 4 != self.when % 4):
            return
        registers = memory.registers
        a = registers[-1 - self.a % len(registers)]
        b = registers[-1 - self.b % len(registers)]
        made = ACTIONS[self.action][1](memory, a, b, self.k)
        if made is not None:
            registers.append(made)


INSTRUCTIONS = st.builds(
    Instruction,
    action=st.integers(0, len(ACTIONS) - 1),
    a=st.integers(0, 3),
    b=st.integers(0, 3),
    k=st.integers(0, 7),
    when=st.sampled_from([0, 0, 0, 0, 0, 0, 1, 2, 3, 4]),
)
PROGRAMS = st.lists(INSTRUCTIONS, min_size=1, max_size=24)


def program_of(instructions: list[Instruction]) -> Any:
    """A program for ``Session.play``."""

    def program(device: str) -> Any:
        memory = Memory(device)
        memory.persistent = [
            torch.zeros(1, 1, device=device),
            torch.zeros(ROWS, COLUMNS, device=device),
            torch.arange(6.0).reshape(2, 3).to(device),
        ]
        memory.carried = [torch.zeros(ROWS, COLUMNS).to(device) for _ in range(2)]

        @torch.no_grad()
        def frame(index: int) -> Any:
            memory.frame, memory.results = index, []
            memory.registers = [upload(memory, None, None, 0)]
            for each in instructions:
                each.run(memory)
            memory.read(memory.registers[-1])
            del memory.kept[:-4]
            return memory.results

        return frame

    return program
