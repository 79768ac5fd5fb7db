/* SPDX-License-Identifier: MIT */
#include "kernels/cpu/cpu.h"

#include <cpuid.h>
#include <string.h>
#include <sys/syscall.h>
#include <unistd.h>

#include <imagine/context.h>

#include "kernels/ref/ref.h"

/* The tables, from plain C upwards: an entry that a level has nothing better for is the level's before it. */

const imagine__kernels imagine__kernels_plain = {
    .name = "plain",
    .linear_packed_size = imagine__ref_linear_packed_size,
    .pack_linear = imagine__ref_pack_linear,
    .pack_rows = 1,
    .conv_packed_size = imagine__ref_conv_packed_size,
    .pack_conv = imagine__ref_pack_conv,
    .linear = imagine__ref_linear,
    .conv = imagine__ref_conv,
    .attention = imagine__ref_attention,
    .norm = imagine__ref_norm,
    .norm_rope = imagine__ref_norm_rope,
    .patchify = imagine__ref_patchify,
    .unpatchify = imagine__ref_unpatchify,
    .shortcut_down = imagine__ref_shortcut_down,
    .shortcut_up = imagine__ref_shortcut_up,
    .modulate = imagine__ref_modulate,
    .relative_bias = imagine__ref_relative_bias,
    .pixels = imagine__ref_pixels,
    .activate = imagine__ref_activate,
    .embed = imagine__ref_embed,
    .combine = imagine__ref_combine,
    .keep = imagine__ref_keep,
    .spread = imagine__ref_spread,
    .rescale = imagine__ref_rescale,
    .transpose = imagine__ref_transpose,
    .finite = imagine__ref_finite,
    .to_u8 = imagine__ref_to_u8,
    .from_u8 = imagine__ref_from_u8,
};

static const imagine__kernels kernels_avx2 = {
    .name = "avx2",
    .linear_packed_size = imagine__avx2_linear_packed_size,
    .pack_linear = imagine__avx2_pack_linear,
    .pack_rows = 16,
    .conv_packed_size = imagine__avx2_conv_packed_size,
    .pack_conv = imagine__avx2_pack_conv,
    .linear = imagine__avx2_linear,
    .conv = imagine__avx2_conv,
    .attention = imagine__avx2_attention,
    .norm = imagine__avx2_norm,
    .norm_rope = imagine__avx2_norm_rope,
    .patchify = imagine__ref_patchify,
    .unpatchify = imagine__ref_unpatchify,
    .shortcut_down = imagine__ref_shortcut_down,
    .shortcut_up = imagine__ref_shortcut_up,
    .modulate = imagine__ref_modulate,
    .relative_bias = imagine__ref_relative_bias,
    .pixels = imagine__ref_pixels,
    .activate = imagine__avx2_activate,
    .embed = imagine__avx2_embed,
    .combine = imagine__avx2_combine,
    .keep = imagine__ref_keep,
    .spread = imagine__ref_spread,
    .rescale = imagine__ref_rescale,
    .transpose = imagine__avx2_transpose,
    .finite = imagine__avx2_finite,
    .to_u8 = imagine__avx2_to_u8,
    .from_u8 = imagine__avx2_from_u8,
};

/* Convolutions and norms; the rest waits for memory. Matrix products and attention come with each table. */
#define AVX512_BUT_PRODUCTS                         \
    .conv_packed_size = imagine__avx512_conv_packed_size, \
    .pack_conv = imagine__avx512_pack_conv,         \
    .conv = imagine__avx512_conv,                   \
    .norm = imagine__avx512_norm,                   \
    .norm_rope = imagine__avx512_norm_rope,         \
    .patchify = imagine__ref_patchify,              \
    .unpatchify = imagine__ref_unpatchify,          \
    .shortcut_down = imagine__ref_shortcut_down,    \
    .shortcut_up = imagine__ref_shortcut_up,        \
    .modulate = imagine__ref_modulate,              \
    .relative_bias = imagine__ref_relative_bias,    \
    .pixels = imagine__ref_pixels,                  \
    .activate = imagine__avx2_activate,             \
    .embed = imagine__avx2_embed,                   \
    .combine = imagine__avx2_combine,               \
    .keep = imagine__ref_keep,                      \
    .spread = imagine__ref_spread,                  \
    .rescale = imagine__ref_rescale,                \
    .transpose = imagine__avx2_transpose,           \
    .finite = imagine__avx2_finite,                 \
    .to_u8 = imagine__avx2_to_u8,                   \
    .from_u8 = imagine__avx2_from_u8,               \
    .pack_rows = 32

#define AVX512(how_tall)                                        \
    {                                                            \
        .name = "avx512",                                        \
        .linear_packed_size = imagine__avx512_linear_packed_size, \
        .pack_linear = imagine__avx512_pack_linear,              \
        .linear = imagine__avx512_linear,                        \
        .attention = imagine__avx512_attention,                  \
        .tall = how_tall,                                        \
        AVX512_BUT_PRODUCTS,                                     \
    }
static const imagine__kernels kernels_avx512[3] = {AVX512(0), AVX512(1), AVX512(2)};

static const imagine__kernels kernels_avx512bf16 = {
    .name = "avx512bf16",
    .linear_packed_size = imagine__avx512bf16_linear_packed_size,
    .pack_linear = imagine__avx512bf16_pack_linear,
    .linear = imagine__avx512bf16_linear,
    .attention = imagine__avx512_attention,
    AVX512_BUT_PRODUCTS,
};

#ifdef IMAGINE_HAS_AMX
static const imagine__kernels kernels_amx = {
    .name = "amx",
    .linear_packed_size = imagine__amx_linear_packed_size,
    .pack_linear = imagine__amx_pack_linear,
    .linear = imagine__amx_linear,
    .attention = imagine__amx_attention,
    .tall = 1,
    AVX512_BUT_PRODUCTS,
};
#define HIGHEST IMAGINE_CPU_AMX
#else
#define HIGHEST IMAGINE_CPU_AVX512BF16 /* the compiler does not know the instructions */
#endif

static uint64_t enabled_registers(void)
{
    uint32_t low, high;
    __asm__ volatile("xgetbv" : "=a"(low), "=d"(high) : "c"(0));
    return (uint64_t)high << 32 | low;
}

/* What the processor has and the operating system saves. */
static int32_t detect_level(void)
{
    const uint32_t fma = 1u << 12, osxsave = 1u << 27, avx = 1u << 28, f16c = 1u << 29, avx2 = 1u << 5;
    const uint32_t avx512 = 1u << 16 | 1u << 17 | 1u << 30 | 1u << 31; /* F, DQ, BW, VL */
    const uint32_t avx512_bf16 = 1u << 5; /* of the second leaf */
    const uint32_t amx = 1u << 22 | 1u << 24; /* BF16, TILE */
    const uint64_t ymm = 0x6, zmm = 0xe6, tiles = 0x60000;
    const uint32_t basic = fma | osxsave | avx | f16c;
    uint32_t a, b, c, d, extended;

    if (!__get_cpuid(1, &a, &b, &c, &d) || (c & basic) != basic)
        return IMAGINE_CPU_PLAIN;
    if (!__get_cpuid_count(7, 0, &a, &extended, &c, &d) || !(extended & avx2))
        return IMAGINE_CPU_PLAIN;
    uint64_t enabled = enabled_registers();
    if ((enabled & ymm) != ymm)
        return IMAGINE_CPU_PLAIN;
    if ((extended & avx512) != avx512 || (enabled & zmm) != zmm)
        return IMAGINE_CPU_AVX2;
    uint32_t more = d;
    if (!__get_cpuid_count(7, 1, &a, &b, &c, &d) || !(a & avx512_bf16))
        return IMAGINE_CPU_AVX512;
    return (more & amx) == amx && (enabled & tiles) == tiles ? IMAGINE_CPU_AMX : IMAGINE_CPU_AVX512BF16;
}

/* Intel's multiply two vectors of 512 bits in the turn in which they load two; AMD's are no faster with more rows at once. */
static int is_intel(void)
{
    uint32_t a, name[3];
    return __get_cpuid(0, &a, &name[0], &name[2], &name[1]) && !memcmp(name, "GenuineIntel", sizeof name);
}

const imagine__kernels *imagine__kernels_avx512(int tall)
{
    return &kernels_avx512[tall];
}

/* Linux gives a process the registers of tiles when it asks: 8 KiB for every thread that uses them. 0: it does not. */
static int may_use_tiles(void)
{
    const long ask = 0x1023, tile_data = 18; /* ARCH_REQ_XCOMP_PERM, the state's number */
    return syscall(SYS_arch_prctl, ask, tile_data) == 0;
}

const imagine__kernels *imagine__kernels_for_cpu(int32_t level, int32_t *used)
{
    static const imagine__kernels *const tables[] = {&imagine__kernels_plain, &kernels_avx2, kernels_avx512,
                                                  &kernels_avx512bf16,
#ifdef IMAGINE_HAS_AMX
                                                  &kernels_amx,
#endif
    };
    const int32_t found = detect_level();
    int32_t best = found > HIGHEST ? HIGHEST : found;
    if (level == IMAGINE_CPU_BEST)
        level = IMAGINE_CPU_AVX512; /* BF16 rounds activations: only for those who ask for it */
    if (level < best)
        best = level;
    if (best == IMAGINE_CPU_AMX && !may_use_tiles())
        best = IMAGINE_CPU_AVX512BF16;
    if (used)
        *used = best;
    if (best == IMAGINE_CPU_AVX512 && is_intel())
        return &kernels_avx512[found == IMAGINE_CPU_AMX ? 2 : 1]; /* those with AMX have 2 MiB of second-level cache */
    return tables[best - IMAGINE_CPU_PLAIN];
}

static int64_t plain_multiply_add(int64_t steps, float *out)
{
    enum { SUMS = 8 };
    volatile float factor = 0.999999f;
    float sums[SUMS] = {0}, a = factor;
    for (int64_t i = 0; i < steps; i++)
        for (int j = 0; j < SUMS; j++)
            sums[j] = sums[j] * a + 1e-7f;
    for (int j = 0; j < SUMS && steps > 0; j++)
        out[j] = sums[j];
    return 2 * SUMS;
}

int64_t imagine__cpu_multiply_add(const imagine__kernels *kernels, int64_t steps, float *out)
{
    if (kernels->conv == imagine__avx512_conv)
        return imagine__avx512_multiply_add(steps, out);
    return kernels == &kernels_avx2 ? imagine__avx2_multiply_add(steps, out) : plain_multiply_add(steps, out);
}
