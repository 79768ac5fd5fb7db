/* SPDX-License-Identifier: MIT */

/* The public structs as version 0.1 laid them out on 64-bit machines. A field may be added behind the last one, with the
 * size raised here; no line may change otherwise. */

#include <stdio.h>
#include <string.h>

#include <imagine/imagine.h>

#define SIZE(type, size) _Static_assert(sizeof(type) == (size), #type)
#define AT(type, field, offset) _Static_assert(offsetof(type, field) == (offset), #type "." #field)

SIZE(imagine_bench_row, 408);
AT(imagine_bench_row, struct_size, 0);
AT(imagine_bench_row, reserved0, 4);
AT(imagine_bench_row, name, 8);
AT(imagine_bench_row, kind, 104);
AT(imagine_bench_row, gflops, 120);
AT(imagine_bench_row, share, 128);
AT(imagine_bench_row, seconds, 136);
AT(imagine_bench_row, peak, 144);
AT(imagine_bench_row, device, 152);
AT(imagine_bench_row, size, 156);
AT(imagine_bench_row, peak_f32, 160);
AT(imagine_bench_row, bandwidth, 168);
AT(imagine_bench_row, value, 176);
AT(imagine_bench_row, unit, 184);
AT(imagine_bench_row, emulated, 200);
AT(imagine_bench_row, reserved1, 204);
AT(imagine_bench_row, left_out, 208);
AT(imagine_bench_row, device_name, 344);

SIZE(imagine_buffer_info, 112);
AT(imagine_buffer_info, struct_size, 0);
AT(imagine_buffer_info, dtype, 4);
AT(imagine_buffer_info, ndim, 8);
AT(imagine_buffer_info, reserved0, 12);
AT(imagine_buffer_info, shape, 16);
AT(imagine_buffer_info, data, 80);
AT(imagine_buffer_info, size, 88);
AT(imagine_buffer_info, flags, 96);
AT(imagine_buffer_info, reserved1, 100);
AT(imagine_buffer_info, device, 104);
AT(imagine_buffer_info, device_number, 108);

SIZE(imagine_context_options, 96);
AT(imagine_context_options, struct_size, 0);
AT(imagine_context_options, device, 4);
AT(imagine_context_options, threads, 8);
AT(imagine_context_options, cpu_level, 12);
AT(imagine_context_options, memory_limit, 16);
AT(imagine_context_options, allocate, 24);
AT(imagine_context_options, release, 32);
AT(imagine_context_options, allocator_data, 40);
AT(imagine_context_options, log, 48);
AT(imagine_context_options, log_data, 56);
AT(imagine_context_options, log_level, 64);
AT(imagine_context_options, reserved0, 68);
AT(imagine_context_options, device_number, 72);
AT(imagine_context_options, precision, 76);
AT(imagine_context_options, stream, 80);
AT(imagine_context_options, graphs, 88);
AT(imagine_context_options, reserved1, 92);

SIZE(imagine_context_info, 56);
AT(imagine_context_info, struct_size, 0);
AT(imagine_context_info, device, 4);
AT(imagine_context_info, threads, 8);
AT(imagine_context_info, cpu_level, 12);
AT(imagine_context_info, memory_used, 16);
AT(imagine_context_info, memory_peak, 24);
AT(imagine_context_info, device_memory_used, 32);
AT(imagine_context_info, device_memory_peak, 40);
AT(imagine_context_info, device_number, 48);
AT(imagine_context_info, reserved0, 52);

SIZE(imagine_job_options, 168);
AT(imagine_job_options, struct_size, 0);
AT(imagine_job_options, events, 4);
AT(imagine_job_options, prompt, 8);
AT(imagine_job_options, negative_prompt, 16);
AT(imagine_job_options, sampler, 24);
AT(imagine_job_options, prompt_embeds, 32);
AT(imagine_job_options, negative_embeds, 40);
AT(imagine_job_options, noise, 48);
AT(imagine_job_options, latents, 56);
AT(imagine_job_options, cancel, 64);
AT(imagine_job_options, preview_every, 72);
AT(imagine_job_options, decode, 76);
AT(imagine_job_options, renoise, 80);
AT(imagine_job_options, init_latents, 88);
AT(imagine_job_options, known_latents, 96);
AT(imagine_job_options, known_mask, 104);
AT(imagine_job_options, init_frames, 112);
AT(imagine_job_options, mask_frames, 120);
AT(imagine_job_options, first_frames, 128);
AT(imagine_job_options, last_frame, 136);
AT(imagine_job_options, tile_width, 144);
AT(imagine_job_options, tile_height, 148);
AT(imagine_job_options, state, 152);
AT(imagine_job_options, state_every, 160);
AT(imagine_job_options, reserved0, 164);

SIZE(imagine_event, 56);
AT(imagine_event, struct_size, 0);
AT(imagine_event, kind, 4);
AT(imagine_event, step, 8);
AT(imagine_event, steps, 12);
AT(imagine_event, first_frame, 16);
AT(imagine_event, frame_count, 20);
AT(imagine_event, sigma, 24);
AT(imagine_event, seconds, 32);
AT(imagine_event, frames, 40);
AT(imagine_event, latents, 48);

SIZE(imagine_job_info, 104);
AT(imagine_job_info, struct_size, 0);
AT(imagine_job_info, stage, 4);
AT(imagine_job_info, width, 8);
AT(imagine_job_info, height, 12);
AT(imagine_job_info, frames, 16);
AT(imagine_job_info, steps, 20);
AT(imagine_job_info, guidance, 24);
AT(imagine_job_info, seconds, 32);
AT(imagine_job_info, memory_peak, 96);

SIZE(imagine_estimate, 280);
AT(imagine_estimate, struct_size, 0);
AT(imagine_estimate, fits, 4);
AT(imagine_estimate, width, 8);
AT(imagine_estimate, height, 12);
AT(imagine_estimate, frames, 16);
AT(imagine_estimate, steps, 20);
AT(imagine_estimate, guidance, 24);
AT(imagine_estimate, peak_bytes, 32);
AT(imagine_estimate, held_bytes, 40);
AT(imagine_estimate, limit_bytes, 48);
AT(imagine_estimate, stage_peak, 56);
AT(imagine_estimate, stage_weights, 120);
AT(imagine_estimate, stage_work, 184);
AT(imagine_estimate, streamed, 248);
AT(imagine_estimate, gives_back, 252);
AT(imagine_estimate, in_turn, 256);
AT(imagine_estimate, nearest_width, 260);
AT(imagine_estimate, nearest_height, 264);
AT(imagine_estimate, nearest_frames, 268);
AT(imagine_estimate, tile, 272);
AT(imagine_estimate, reserved0, 276);

SIZE(imagine_model_options, 16);
AT(imagine_model_options, struct_size, 0);
AT(imagine_model_options, reserved0, 4);
AT(imagine_model_options, weights, 8);
AT(imagine_model_options, reserved1, 12);

SIZE(imagine_model_info, 104);
AT(imagine_model_info, struct_size, 0);
AT(imagine_model_info, stages, 4);
AT(imagine_model_info, width, 8);
AT(imagine_model_info, height, 12);
AT(imagine_model_info, frames, 16);
AT(imagine_model_info, steps, 20);
AT(imagine_model_info, guidance, 24);
AT(imagine_model_info, frames_per_second, 32);
AT(imagine_model_info, latent_channels, 40);
AT(imagine_model_info, spatial_factor, 44);
AT(imagine_model_info, temporal_factor, 48);
AT(imagine_model_info, size_multiple, 52);
AT(imagine_model_info, text_length, 56);
AT(imagine_model_info, text_dim, 60);
AT(imagine_model_info, layers, 64);
AT(imagine_model_info, width_hidden, 68);
AT(imagine_model_info, parameters_text, 72);
AT(imagine_model_info, parameters_sampler, 80);
AT(imagine_model_info, parameters_vae, 88);
AT(imagine_model_info, bytes, 96);

SIZE(imagine_sampler_options, 144);
AT(imagine_sampler_options, struct_size, 0);
AT(imagine_sampler_options, batch, 4);
AT(imagine_sampler_options, width, 8);
AT(imagine_sampler_options, height, 12);
AT(imagine_sampler_options, frames, 16);
AT(imagine_sampler_options, steps, 20);
AT(imagine_sampler_options, seed, 24);
AT(imagine_sampler_options, guidance, 32);
AT(imagine_sampler_options, shift, 40);
AT(imagine_sampler_options, schedule, 48);
AT(imagine_sampler_options, step_rule, 52);
AT(imagine_sampler_options, cfg_mode, 56);
AT(imagine_sampler_options, sigma_count, 60);
AT(imagine_sampler_options, sigmas, 64);
AT(imagine_sampler_options, cancel, 72);
AT(imagine_sampler_options, eta, 80);
AT(imagine_sampler_options, guidance_rescale, 88);
AT(imagine_sampler_options, guidance_start, 96);
AT(imagine_sampler_options, guidance_stop, 104);
AT(imagine_sampler_options, guidance_audio, 112);
AT(imagine_sampler_options, strength, 120);
AT(imagine_sampler_options, known_mode, 128);
AT(imagine_sampler_options, reserved0, 132);
AT(imagine_sampler_options, guidance_2, 136);

SIZE(imagine_step_info, 32);
AT(imagine_step_info, struct_size, 0);
AT(imagine_step_info, step, 4);
AT(imagine_step_info, steps, 8);
AT(imagine_step_info, reserved0, 12);
AT(imagine_step_info, sigma, 16);
AT(imagine_step_info, seconds, 24);

SIZE(imagine_error, 512);
AT(imagine_error, struct_size, 0);
AT(imagine_error, status, 4);
AT(imagine_error, native_code, 8);
AT(imagine_error, reserved0, 12);
AT(imagine_error, message, 16);

SIZE(imagine_text_options, 16);
AT(imagine_text_options, struct_size, 0);
AT(imagine_text_options, reserved0, 4);
AT(imagine_text_options, cancel, 8);

SIZE(imagine_vae_options, 24);
AT(imagine_vae_options, struct_size, 0);
AT(imagine_vae_options, reserved0, 4);
AT(imagine_vae_options, cancel, 8);
AT(imagine_vae_options, tile_width, 16);
AT(imagine_vae_options, tile_height, 20);

/* The numbers of the statuses are pinned as well. */
_Static_assert(IMAGINE_TIMEOUT == 1 && IMAGINE_ERROR_INVALID_ARGUMENT == -1 && IMAGINE_ERROR_NO_MEMORY == -2 &&
                   IMAGINE_ERROR_CANCELLED == -3 && IMAGINE_ERROR_STATE == -4 && IMAGINE_ERROR_UNSUPPORTED == -5 &&
                   IMAGINE_ERROR_FORKED == -6 && IMAGINE_ERROR_INTERNAL == -7 && IMAGINE_ERROR_IO == -20 &&
                   IMAGINE_ERROR_NOT_FOUND == -21 && IMAGINE_ERROR_FORMAT == -22 && IMAGINE_ERROR_MODEL == -23 &&
                   IMAGINE_ERROR_THREAD == -40 && IMAGINE_ERROR_NOT_FINITE == -60 && IMAGINE_ERROR_DEVICE == -80,
               "statuses");

/* An error as programs of 0.1 have compiled it in. */
static int same_init(void)
{
    static const imagine_error init = IMAGINE_ERROR_INIT;
    imagine_error wanted;
    memset(&wanted, 0, sizeof wanted);
    wanted.struct_size = 512;
    return !memcmp(&init, &wanted, sizeof init);
}

/* That it compiled is the test; running it asks the library whose headers these are. */
int main(void)
{
    int same = imagine_version_number() == IMAGINE_VERSION_NUMBER && imagine_status_name(IMAGINE_ERROR_MODEL)[0] == 'E' &&
               same_init();
    printf("abi/layout: %d passed, %d failed, 0 skipped\n", same, !same);
    return !same;
}
