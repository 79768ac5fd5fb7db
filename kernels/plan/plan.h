/* SPDX-License-Identifier: MIT */
#ifndef IMAGINE_KERNELS_PLAN_H
#define IMAGINE_KERNELS_PLAN_H

#include "kernels/kernels.h"

/* A table that computes nothing and looks at no tensor, with the packed sizes of `real`, whose memory it helps to count. */
void imagine__kernels_plan(imagine__kernels *plan, const imagine__kernels *real);

#endif
