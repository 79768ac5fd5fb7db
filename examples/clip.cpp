/* SPDX-License-Identifier: MIT */

/* From C++, with handles that free themselves and failures as exceptions: clip MODEL PROMPT OUT.png */

#include <cstdio>
#include <cstring>
#include <memory>
#include <stdexcept>
#include <vector>

#include <imagine/imagine.h>

namespace {

/* A handle of a type T that `End` ends. */
template <typename T, void (*End)(T **)> struct Ender {
    void operator()(T *handle) const { End(&handle); }
};
template <typename T, void (*End)(T **)> using Handle = std::unique_ptr<T, Ender<T, End>>;
using Context = Handle<imagine_context, imagine_context_release>;
using Model = Handle<imagine_model, imagine_model_release>;
using Job = Handle<imagine_job, imagine_job_destroy>;
using Buffer = Handle<imagine_buffer, imagine_buffer_release>;

/* Calls a function whose last parameter is the error. */
template <typename Function, typename... Arguments> void call(Function function, Arguments... arguments)
{
    imagine_error error = IMAGINE_ERROR_INIT;
    if (function(arguments..., &error) < 0)
        throw std::runtime_error(error.message);
}

/* What a function makes into its first parameter. */
template <typename Owner, typename Function, typename... Arguments> Owner make(Function function, Arguments... arguments)
{
    typename Owner::pointer made = nullptr;
    call(function, &made, arguments...);
    return Owner(made);
}

/* All frames of a job, U8 [frames, height, width, 3]. */
Buffer frames_of(imagine_context *context, imagine_job *job)
{
    std::vector<unsigned char> bytes;
    imagine_event event = {};
    imagine_buffer_info info = {};
    event.struct_size = sizeof event;
    info.struct_size = sizeof info;
    do {
        call(imagine_job_next, job, &event, int64_t(-1));
        if (event.kind == IMAGINE_EVENT_STEP)
            std::fprintf(stderr, "\rstep %d of %d", event.step, event.steps);
        if (event.kind != IMAGINE_EVENT_FRAMES)
            continue;
        call(imagine_buffer_get_info, event.frames, &info);
        auto data = static_cast<const unsigned char *>(info.data);
        bytes.insert(bytes.end(), data, data + info.size);
    } while (event.kind != IMAGINE_EVENT_DONE);
    std::fprintf(stderr, "\n");
    info.shape[0] = event.frame_count;
    Buffer whole = make<Buffer>(imagine_buffer_create, context, IMAGINE_U8, info.ndim, &info.shape[0]);
    std::memcpy(imagine_buffer_data(whole.get()), bytes.data(), bytes.size());
    return whole;
}

} // namespace

int main(int argc, char **argv)
try {
    Context context = make<Context>(imagine_context_create, nullptr);
    Model model = make<Model>(imagine_model_open, context.get(), argc > 1 ? argv[1] : "models/tiny", nullptr);
    imagine_job_options options;
    imagine_job_options_init(&options, sizeof options);
    options.prompt = argc > 2 ? argv[2] : "a red apple";
    Job job = make<Job>(imagine_job_create, model.get(), &options);
    Buffer frames = frames_of(context.get(), job.get());
    imagine_model_info info = {};
    info.struct_size = sizeof info;
    call(imagine_model_get_info, model.get(), &info);
    call(imagine_picture_save, context.get(), argc > 3 ? argv[3] : "out.png", frames.get(), info.frames_per_second);
    return 0;
} catch (const std::exception &problem) {
    std::fprintf(stderr, "%s\n", problem.what());
    return 1;
}
