/* SPDX-License-Identifier: MIT */

/* The step rules. Coefficients are computed in f64 from the sigmas and rounded once; tensors are f32. */

#include "sampler/schedule.h"

#include <math.h>

struct imagine__stepper {
    imagine__work *work;
    const imagine__schedule *schedule;
    int64_t count;
    int32_t next; /* the step that is due */
    float *now; /* x0 as predicted at this step */
    float *result; /* the sample after this step, until the step is whole */
    float *m0, *m1; /* UniPC: x0 as predicted one and two steps ago; Heun: m0 is the step's first prediction */
    float *last; /* UniPC: the corrected sample that the last step began with */
    float *from; /* UniPC: the one that this step begins with */
};

imagine_status imagine__stepper_create(imagine__stepper **out, imagine__work *work, const imagine__schedule *schedule,
                                       int64_t count, imagine_error *error)
{
    *out = NULL;
    imagine__stepper *s = imagine__calloc(work->context, 1, sizeof *s);
    if (!s)
        return imagine__fail_memory_in(work->context, error, sizeof *s, "the step rule");
    s->work = work;
    s->schedule = schedule;
    s->count = count;
    float **tensors[] = { &s->now, &s->result, &s->m0, &s->m1, &s->last, &s->from };
    size_t needed = schedule->rule == IMAGINE_STEP_UNIPC ? 6 : schedule->rule == IMAGINE_STEP_HEUN ? 3 : 2;
    imagine_status status = IMAGINE_OK;
    for (size_t i = 0; i < needed && status >= 0; i++)
        status = imagine__work_zeros(work, tensors[i], (size_t)count, "the step rule's tensors", error);
    if (status < 0)
        imagine__stepper_free(s);
    else
        *out = s;
    return status;
}

void imagine__stepper_free(imagine__stepper *s)
{
    if (!s)
        return;
    imagine_context *context = s->work->context;
    imagine__free(context, s->now);
    imagine__free(context, s->result);
    imagine__free(context, s->m0);
    imagine__free(context, s->m1);
    imagine__free(context, s->last);
    imagine__free(context, s->from);
    imagine__free(context, s);
}

void imagine__stepper_reset(imagine__stepper *s)
{
    s->next = 0;
}

uint32_t imagine__stepper_memory(const imagine__stepper *s, float **tensors)
{
    if (s->schedule->rule != IMAGINE_STEP_UNIPC)
        return 0;
    tensors[0] = s->m0;
    tensors[1] = s->m1;
    tensors[2] = s->last;
    return 3;
}

void imagine__stepper_go_on(imagine__stepper *s, int32_t step)
{
    s->next = step;
}

static void copy(const imagine__stepper *s, float *to, const float *from)
{
    imagine__copy(s->work, to, 0, from, 0, (size_t)s->count * sizeof *to, 1);
}

static void combine(imagine__stepper *s, int32_t terms, const double *coefficients, const float *const *x, float *y)
{
    float rounded[4];
    for (int32_t i = 0; i < terms; i++)
        rounded[i] = (float)coefficients[i];
    s->work->run.kernels->combine(&s->work->run, terms, rounded, x, y, s->count);
}

/* ---- UniPC (Zhao, Bai, Rao, Zhou and Lu, 2023): data prediction, B(h) = e^-h - 1, order 2 ---- */

/* lambda = log(alpha / sigma) with alpha = 1 - sigma; infinite at sigma 0. */
static double lambda(const imagine__schedule *s, int32_t i)
{
    return log(1 - s->sigmas[i]) - log(s->sigmas[i]);
}

/* phi_1(z) = (e^z - 1) / z, phi_{k+1}(z) = (phi_k(z) - 1/k!) / z = 1/(k+1)! + z/(k+2)! + ...; the series where the
 * recursion would cancel. */
static double phi(int k, double z)
{
    double factorial = 1;
    if (fabs(z) < 0.25) {
        for (int i = 2; i <= k; i++)
            factorial *= i;
        double term = 1 / factorial, sum = 0;
        for (int i = 1; i <= 12; i++) {
            sum += term;
            term *= z / (k + i);
        }
        return sum;
    }
    double value = expm1(z) / z;
    for (int i = 1; i < k; i++) {
        factorial *= i;
        value = (value - 1 / factorial) / z;
    }
    return value;
}

/* What a step from sigma s to sigma t is made of. Both the predictor and the corrector are
 *   x_t = (sigma_t / sigma_s) x_s - alpha_t B (m0 + rho (m1 - m0) / r + rho_t (m_t - m0)),  B = e^-h - 1,
 * with m_t present in the corrector only. */
typedef struct unipc {
    double ratio, scale; /* sigma_t / sigma_s, -alpha_t B */
    double h, r; /* lambda_t - lambda_s, and (lambda of the step before - lambda_s) / h */
} unipc;

static unipc unipc_step(const imagine__schedule *s, int32_t from, int order)
{
    double sigma = s->sigmas[from + 1];
    unipc u = { .ratio = sigma / s->sigmas[from], .h = lambda(s, from + 1) - lambda(s, from), .r = -1 };
    u.scale = (sigma - 1) * expm1(-u.h);
    if (order == 2)
        u.r = (lambda(s, from - 1) - lambda(s, from)) / u.h;
    return u;
}

/* The order of the prediction that leaves `step`: 1 where there is no earlier one, and for the last. */
static int32_t order_at(const imagine__stepper *s, int32_t step)
{
    return step == 0 || step == s->schedule->steps - 1 ? 1 : 2;
}

/* result = the sample at step + 1, from the corrected one at `step`. */
static void predict(imagine__stepper *s, int32_t step)
{
    int32_t order = order_at(s, step);
    unipc u = unipc_step(s->schedule, step, order);
    double back = order == 2 ? 0.5 / u.r : 0;
    const double c[3] = { u.ratio, u.scale * (1 - back), u.scale * back };
    const float *const t[3] = { s->from, s->now, s->m0 };
    combine(s, order == 2 ? 3 : 2, c, t, s->result);
}

/* from = the sample at `step` with the prediction made there taken into account: the last step again, one order
 * higher. */
static void correct(imagine__stepper *s, int32_t step)
{
    int32_t order = order_at(s, step - 1);
    unipc u = unipc_step(s->schedule, step - 1, order);
    double back = 0, here = 0.5;
    if (order == 2) {
        /* rho + rho_t = b1 and r rho + rho_t = b2, which makes the step exact for a quadratic */
        double z = -u.h, b = expm1(z), b1 = z * phi(2, z) / b, b2 = 2 * z * phi(3, z) / b;
        double rho = (b1 - b2) / (1 - u.r);
        back = rho / u.r;
        here = b1 - rho;
    }
    const double c[4] = { u.ratio, u.scale * (1 - back - here), u.scale * here, u.scale * back };
    const float *const t[4] = { s->last, s->m0, s->now, s->m1 };
    combine(s, order == 2 ? 4 : 3, c, t, s->from);
}

static void unipc_advance(imagine__stepper *s, int32_t step, const float *x)
{
    if (step > 0)
        correct(s, step);
    else
        copy(s, s->from, x);
    predict(s, step);
}

static void unipc_remember(imagine__stepper *s)
{
    float *oldest = s->m1, *last = s->last;
    s->m1 = s->m0;
    s->m0 = s->now;
    s->now = oldest;
    s->last = s->from;
    s->from = last;
}

/* ---- rules of one step alone ---- */

/* result = x after the step at constant velocity. */
static void euler(imagine__stepper *s, int32_t step, const float *x, const float *v)
{
    const double *sigmas = s->schedule->sigmas;
    combine(s, 2, (const double[]){ 1, sigmas[step + 1] - sigmas[step] }, (const float *const[]){ x, v }, s->result);
}

/* result = the estimate, brought back to the next sigma with new noise. */
static void renoise(imagine__stepper *s, int32_t step, const float *noise)
{
    double sigma = s->schedule->sigmas[step + 1];
    combine(s, sigma > 0 ? 2 : 1, (const double[]){ 1 - sigma, sigma }, (const float *const[]){ s->now, noise },
            s->result);
}

/* LCM's estimate (Luo et al. 2023): the model's, mixed with the sample so that it is exact at timestep 0. */
static void boundary(imagine__stepper *s, int32_t step, const float *x, const float *v)
{
    double t = 10 * s->schedule->timesteps[step], below = t * t + 0.25;
    double skip = 0.25 / below, out = t / sqrt(below);
    combine(s, 2, (const double[]){ skip + out, -out * s->schedule->sigmas[step] }, (const float *const[]){ x, v },
            s->now);
}

/* Euler to below the next sigma, and up to it with new noise; as much as makes the levels of signal and noise right. */
static void ancestral(imagine__stepper *s, int32_t step, const float *x, const float *noise)
{
    double sigma = s->schedule->sigmas[step], next = s->schedule->sigmas[step + 1];
    double down = next * (1 + (next / sigma - 1) * s->schedule->eta), ratio = down / sigma;
    double scale = (1 - next) / (1 - down), added = next * next - down * down * scale * scale;
    combine(s, imagine__schedule_draws(s->schedule, step) ? 3 : 2,
            (const double[]){ scale * ratio, scale * (1 - ratio), sqrt(added > 0 ? added : 0) },
            (const float *const[]){ x, s->now, noise }, s->result);
}

/* ---- Heun ---- */

/* The last step, to 0, is Euler's: no model predicts there. */
static int tries(const imagine__stepper *s, int32_t step)
{
    return s->schedule->rule == IMAGINE_STEP_HEUN && step + 1 < s->schedule->steps;
}

float *imagine__stepper_trial(imagine__stepper *s, int32_t step, const float *x, const float *v)
{
    if (!tries(s, step))
        return NULL;
    copy(s, s->m0, v);
    euler(s, step, x, v);
    return s->result;
}

/* result = x after the step at the mean of both velocities. */
static void heun(imagine__stepper *s, int32_t step, const float *x, const float *v)
{
    double half = (s->schedule->sigmas[step + 1] - s->schedule->sigmas[step]) / 2;
    combine(s, 3, (const double[]){ 1, half, half }, (const float *const[]){ x, s->m0, v }, s->result);
}

/* ---- one step ---- */

static void advance(imagine__stepper *s, int32_t step, const float *x, const float *v, const float *noise)
{
    const float *const first[2] = { x, tries(s, step) ? s->m0 : v };
    combine(s, 2, (const double[]){ 1, -s->schedule->sigmas[step] }, first, s->now);
    switch (s->schedule->rule) {
    case IMAGINE_STEP_UNIPC: unipc_advance(s, step, x); break;
    case IMAGINE_STEP_RENOISE:
    case IMAGINE_STEP_TRIGFLOW: renoise(s, step, noise); break;
    case IMAGINE_STEP_LCM:
        boundary(s, step, x, v);
        renoise(s, step, noise);
        break;
    case IMAGINE_STEP_ANCESTRAL: ancestral(s, step, x, noise); break;
    default:
        if (tries(s, step))
            heun(s, step, x, v);
        else
            euler(s, step, x, v);
    }
}

imagine_status imagine__stepper_step(imagine__stepper *s, int32_t step, float *x, const float *v, const float *noise,
                                     float *x0, imagine_error *error)
{
    if (step != s->next || step >= s->schedule->steps)
        return imagine__fail(error, IMAGINE_ERROR_STATE, "step %d was asked for, but step %d of %d is due", step,
                             s->next, s->schedule->steps);
    advance(s, step, x, v, noise);
    /* a cancelled operation leaves its output undefined, so nothing is kept before this */
    imagine_status status = imagine__work_check(s->work, error);
    if (status < 0)
        return status;
    copy(s, x, s->result);
    if (x0)
        copy(s, x0, s->now);
    if (s->schedule->rule == IMAGINE_STEP_UNIPC)
        unipc_remember(s);
    s->next++;
    return IMAGINE_OK;
}
