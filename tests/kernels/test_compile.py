"""Compiles every Triton kernel for two generations of GPUs on a machine that may have none."""

import os
import re
import subprocess
from pathlib import Path

import pytest
import torch

triton = pytest.importorskip("triton")
if os.environ.get("TRITON_INTERPRET") == "1":
    pytest.skip("TRITON_INTERPRET=1 replaces the compiler", allow_module_level=True)

from triton.backends.compiler import GPUTarget  # noqa: E402
from triton.compiler import ASTSource  # noqa: E402

from cl_ac.kernels import channel_kernels, decode_ffn, grouped_ffn, plan  # noqa: E402
from cl_ac.kernels.cost import TOKEN_TILE  # noqa: E402

PTXAS = Path(triton.knobs.nvidia.ptxas.path)
CUOBJDUMP = Path(triton.knobs.nvidia.cuobjdump.path)
pytestmark = [
    pytest.mark.skipif(not PTXAS.exists() or not CUOBJDUMP.exists(), reason="no ptxas or cuobjdump beside Triton"),
    pytest.mark.filterwarnings("ignore:TRITON_DEFAULT_FP_FUSION"),
]
# bytes of shared memory a block may use (CUDA C programming guide, table of compute capabilities)
SHARED_MEMORY = {80: 163 * 1024, 90: 227 * 1024}
TENSOR_CORE = {80: "mma.sync.aligned", 90: "wgmma.mma_async"}
TYPES = {torch.bfloat16: "bf16", torch.float16: "fp16", torch.float32: "fp32"}
INDEX_LISTS = [
    *("token_of_pair", "pair_of", "expert_start", "row_tile_start", "tile_experts", "tile_union"),
    *("counts", "offsets", "arrived"),
]


def compiled(
    kernel, dtype: torch.dtype, capability: int, constants: dict, warps: int = 4, stages: int = 3, **types: str
):
    """Compiles a kernel whose arguments are index lists, uint8 masks, sizes (`types`) or tensors of dtype."""
    known = dict.fromkeys(INDEX_LISTS, "*i32") | {"mask": "*u8"} | types
    constants = {name: value for name, value in constants.items() if name in kernel.arg_names}
    signature = {
        name: "constexpr" if name in constants else known.get(name, f"*{TYPES[dtype]}") for name in kernel.arg_names
    }
    place = {name: (index,) for index, name in enumerate(kernel.arg_names)}
    source = ASTSource(
        kernel,
        signature,
        {place[name]: value for name, value in constants.items()},
        {place[name]: [["tt.divisibility", 16]] for name, kind in signature.items() if kind.startswith("*")},
    )
    options = {"num_warps": warps, "num_stages": stages}
    return triton.compile(source, target=GPUTarget("cuda", capability, 32), options=options)


def resources(binary, folder: Path) -> dict[str, int]:
    """Registers, stack and local bytes per thread as the assembler left them."""
    cubin = folder / "kernel.cubin"
    cubin.write_bytes(binary.asm["cubin"])
    report = subprocess.run(
        [CUOBJDUMP, "--dump-resource-usage", cubin], capture_output=True, text=True, check=True
    ).stdout
    usage = {name: int(value) for name, value in re.findall(r"(REG|STACK|LOCAL):(\d+)", report)}
    assert usage.keys() == {"REG", "STACK", "LOCAL"}, report
    return usage


def check(binary, capability: int, folder: Path, tensor_cores: bool) -> None:
    usage = resources(binary, folder)
    assert usage["STACK"] == usage["LOCAL"] == 0, f"spills: {usage}"
    assert binary.metadata.shared <= SHARED_MEMORY[capability]
    assert (TENSOR_CORE[capability] in binary.asm["ptx"]) == tensor_cores


@pytest.mark.parametrize("capability", SHARED_MEMORY)
@pytest.mark.parametrize(
    ("dtype", "precision", "gated", "width", "neurons", "experts"),
    [
        (torch.bfloat16, "ieee", False, 768, 128, 24),
        (torch.bfloat16, "ieee", True, 4096, 512, 28),
        (torch.float32, "tf32", True, 768, 128, 24),
        (torch.float32, "ieee", False, 768, 128, 24),
    ],
)
def test_grouped_kernels(
    capability: int,
    dtype: torch.dtype,
    precision: str,
    gated: bool,
    width: int,
    neurons: int,
    experts: int,
    tmp_path: Path,
):
    tiles = grouped_ffn.tiles_for(dtype, gated, interpreted=False)
    shared = {
        "COUNT": experts,
        "WIDTH": width,
        "NEURONS": neurons,
        "ACTIVATION": "silu" if gated else "gelu",
        "ROWS": tiles.rows,
        "TILE": TOKEN_TILE,
        "DEPTH": tiles.depth,
        "EXPERTS": triton.next_power_of_2(experts),
        "PRECISION": precision,
        "INTERPRETED": False,
    } | ({} if gated else {"gate": None, "gate_bias": None})
    tensor_cores = dtype != torch.float32 or precision == "tf32"
    for kernel, columns in ((grouped_ffn.grouped_up, tiles.neurons), (grouped_ffn.token_major_down, tiles.columns)):
        binary = compiled(
            kernel, dtype, capability, shared | {"COLUMNS": columns}, tiles.warps, tiles.stages, token_count="i32"
        )
        check(binary, capability, tmp_path, tensor_cores)


@pytest.mark.parametrize("capability", SHARED_MEMORY)
@pytest.mark.parametrize(
    ("dtype", "gated", "tokens", "width"),
    [
        (torch.bfloat16, True, 1, 4096),
        (torch.float32, True, 8, 1024),
        (torch.bfloat16, True, 3, 4096),
        (torch.float32, False, 1, 8192),
        (torch.float32, True, 4, 4096),
    ],
)
def test_decode_kernel(capability: int, dtype: torch.dtype, gated: bool, tokens: int, width: int, tmp_path: Path):
    assert decode_ffn.fits(tokens, width)
    block, warps = decode_ffn.decode_blocks(tokens, width)
    constants = {
        "TOKENS": tokens,
        "COUNT": 112,
        "WIDTH": width,
        "NEURONS": 128,
        "ACTIVATION": "silu" if gated else "gelu_tanh",
        "TOKENS_PADDED": triton.next_power_of_2(tokens),
        "EXPERTS": 128,
        "COLUMNS": triton.next_power_of_2(width),
        "BLOCK": block,
    } | ({} if gated else {"gate": None, "gate_bias": None})
    binary = compiled(decode_ffn.decode, dtype, capability, constants, warps, total="*fp32")
    check(binary, capability, tmp_path, tensor_cores=False)


@pytest.mark.parametrize("capability", SHARED_MEMORY)
def test_plan_kernels(capability: int, tmp_path: Path):
    constants = {"TILE": TOKEN_TILE, "BLOCK": plan.EXPERT_BLOCK, "TILES": plan.SCAN_TILES, "EXPERTS": 128, "ROWS": 32}
    sizes = dict.fromkeys(("tokens", "experts", "tiles", "row_tile"), "i32")
    for kernel, warps in ((plan.count_pairs, 4), (plan.scan_counts, 8), (plan.scatter_pairs, 4)):
        binary = compiled(kernel, torch.float32, capability, constants, warps, **sizes)
        check(binary, capability, tmp_path, tensor_cores=False)
    binary = compiled(plan.keep_near_max, torch.float32, capability, constants, threshold="fp32", **sizes)
    check(binary, capability, tmp_path, tensor_cores=False)


@pytest.mark.parametrize("capability", SHARED_MEMORY)
@pytest.mark.parametrize(("dtype", "integer", "bits"), [(torch.bfloat16, "i16", 15), (torch.float32, "i32", 31)])
def test_channel_kernels(capability: int, dtype: torch.dtype, integer: str, bits: int, tmp_path: Path):
    constants = {"POWER": 2, "BITS": bits, "CHUNK": channel_kernels.CHUNK}
    kernel = channel_kernels.bisect_top_p
    warps = channel_kernels.CHUNK // 512
    binary = compiled(kernel, dtype, capability, constants, warps, codes=f"*{integer}", share="*fp64", channels="i32")
    check(binary, capability, tmp_path, tensor_cores=False)

    constants = {
        "TOKENS": channel_kernels.MAX_TOKENS,
        "DEPTH": channel_kernels.LINEAR_DEPTH,
        "COLUMNS": channel_kernels.LINEAR_COLUMNS,
    }
    sizes = dict.fromkeys(("tokens", "channels", "outputs", "span"), "i32")
    binary = compiled(channel_kernels.masked_products, dtype, capability, constants, partial="*fp32", **sizes)
    check(binary, capability, tmp_path, tensor_cores=False)
