/* SPDX-License-Identifier: MIT */

/* Seeded normals: Philox 4x32-10 (Salmon, Moraes, Dror and Shaw, 2011) and the transform of Box and Muller in f64, made
 * of additions, multiplications, divisions and square roots alone, which IEEE 754 rounds the same way everywhere.
 * docs/sampling.md states every number, so that another program can draw the same noise. */

#include "sampler/schedule.h"

#include <math.h>

void imagine__philox(const uint32_t counter[4], const uint32_t key[2], uint32_t out[4])
{
    uint32_t x0 = counter[0], x1 = counter[1], x2 = counter[2], x3 = counter[3], k0 = key[0], k1 = key[1];
    for (int round = 0; round < 10; round++) {
        uint64_t a = (uint64_t)0xD2511F53u * x0, b = (uint64_t)0xCD9E8D57u * x2;
        x0 = (uint32_t)(b >> 32) ^ x1 ^ k0;
        x1 = (uint32_t)b;
        x2 = (uint32_t)(a >> 32) ^ x3 ^ k1;
        x3 = (uint32_t)a;
        k0 += 0x9E3779B9u;
        k1 += 0xBB67AE85u;
    }
    out[0] = x0;
    out[1] = x1;
    out[2] = x2;
    out[3] = x3;
}

/* -ln((2w + 1) / 2^33): the fraction as m * 2^-e with m in [1/sqrt 2, sqrt 2], and ln m = 2 artanh((m - 1) / (m + 1))
 * by its series, which is exact to the last place or two at |s| <= 0.172. */
static double minus_log(uint32_t w)
{
    uint64_t odd = 2 * (uint64_t)w + 1;
    int bits = 63 - __builtin_clzll(odd); /* odd = m * 2^bits, m in [1, 2) */
    double m = (double)odd / (double)((uint64_t)1 << bits);
    if (m > 0x1.6a09e667f3bcdp+0) {
        m *= 0.5;
        bits++;
    }
    double s = (m - 1) / (m + 1), s2 = s * s, sum = 0;
    for (int k = 23; k >= 1; k -= 2)
        sum = sum * s2 + 1.0 / k;
    return (33 - bits) * 0x1.62e42fefa39efp-1 - 2 * s * sum;
}

/* Cosine and sine of 2 pi w / 2^32: to the nearest quarter turn, and Taylor's series within an eighth of a turn. */
static void turn(uint32_t w, double *cosine, double *sine)
{
    static const double over[] = { 1.0 / 2,   1.0 / 6,   1.0 / 12,  1.0 / 20,  1.0 / 30,  1.0 / 42,
                                   1.0 / 56,  1.0 / 72,  1.0 / 90,  1.0 / 110, 1.0 / 132, 1.0 / 156,
                                   1.0 / 182, 1.0 / 210, 1.0 / 240, 1.0 / 272 }; /* 1 / (k (k + 1)) */
    uint32_t quarter = (uint32_t)(((uint64_t)w + 0x20000000u) >> 30); /* 0 to 4 */
    double angle = (double)((int64_t)w - ((int64_t)quarter << 30)) * 0x1.921fb54442d18p-30; /* 2 pi / 2^32 */
    double a2 = angle * angle, c = 1, s = 1;
    for (int k = 15; k >= 1; k -= 2) {
        c = 1 - a2 * over[k - 1] * c;
        s = 1 - a2 * over[k] * s;
    }
    s *= angle;
    switch (quarter & 3) {
    case 0: *cosine = c, *sine = s; break;
    case 1: *cosine = -s, *sine = c; break;
    case 2: *cosine = -c, *sine = -s; break;
    default: *cosine = s, *sine = -c; break;
    }
}

/* Two normals from two words. The largest is 6.76. */
static void normals(const uint32_t words[2], float out[2])
{
    double radius = sqrt(2 * minus_log(words[0])), cosine, sine;
    turn(words[1], &cosine, &sine);
    out[0] = (float)(radius * cosine);
    out[1] = (float)(radius * sine);
}

void imagine__noise_fill(float *out, int64_t first, int64_t count, uint64_t seed, uint32_t purpose, uint32_t frame)
{
    const uint32_t key[2] = { (uint32_t)seed, (uint32_t)(seed >> 32) };
    int64_t end = first + count;
    for (int64_t i = first - first % 4; i < end; i += 4) {
        uint64_t block = (uint64_t)i / 4;
        const uint32_t counter[4] = { (uint32_t)block, (uint32_t)(block >> 32), frame, purpose };
        uint32_t words[4];
        float four[4];
        imagine__philox(counter, key, words);
        normals(words, four);
        normals(words + 2, four + 2);
        for (int64_t j = i < first ? first - i : 0; j < 4 && i + j < end; j++)
            out[i + j - first] = four[j];
    }
}
