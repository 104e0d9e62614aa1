// The functions of the CUDA runtime that CuPy calls: memory, streams, graphs, events. Nothing is
// asynchronous, but what CUDA forbids while a stream records a graph is forbidden here too.
#include <sys/mman.h>
#include <unistd.h>

#include <chrono>
#include <map>
#include <vector>

#include <driver_types.h>

#include "gpu.h"

using Work = std::function<void()>;
using Clock = std::chrono::steady_clock;

struct Graph {
    std::vector<Work> nodes;
};
struct Stream {
    bool waits_for_legacy = true;
    Graph* recorded = nullptr;
    cudaStreamCaptureMode mode = cudaStreamCaptureModeGlobal;
    bool broken = false;  // by a call that is forbidden while it records
};
struct Event {
    Clock::time_point at;
    bool happened = false;
};

static std::vector<Stream*> streams;
static std::map<u64, size_t> allocated;
static size_t in_use;
static int last_error;
static constexpr size_t MEMORY = 64ull << 30, PAGE = 4096, FILLED = 64 << 20;

int gpu_error(int code) { return last_error = code; }

// Where errors went when the process began: pytest leads them into a file, which a process that is
// ended loses.
int gpu_console = dup(2);

EXPORT void gpu_missing(const char* name) {
    dprintf(gpu_console, "\nsoftware GPU: %s is not modelled\n", name);
    abort();
}

static bool is_default(void* stream) {  // the legacy stream, or that of a thread
    return stream == nullptr || stream == cudaStreamLegacy || stream == cudaStreamPerThread;
}
static Stream* recording() {
    for (Stream* stream : streams)
        if (stream->recorded) return stream;
    return nullptr;
}
static int broken(Stream* stream, int code) {
    stream->broken = true;
    return gpu_error(code);
}
// Waiting for the whole device, and memory of it, while any stream records.
static int forbidden() {
    Stream* stream = recording();
    return stream ? broken(stream, cudaErrorStreamCaptureUnsupported) : 0;
}
// The legacy stream waits for all that wait for it: they could not be recorded.
static int forbidden_on_legacy() {
    Stream* stream = recording();
    if (!stream || !stream->waits_for_legacy) return 0;
    return broken(stream, cudaErrorStreamCaptureImplicit);
}

int gpu_enqueue(void* handle, Work work) {
    if (is_default(handle)) {
        if (int error = forbidden_on_legacy()) return error;
        work();
        return 0;
    }
    Stream* stream = (Stream*)handle;
    if (stream->recorded) stream->recorded->nodes.push_back(work);
    else work();
    return 0;
}

// sitecustomize.py leads the runtime's own functions to these. A name without the prefix would
// also be found by others who look for the runtime.
#define RUNTIME(name) EXPORT int software_##name

// --- the device

RUNTIME(cudaGetDeviceCount)(int* count) { return *count = 1, 0; }
RUNTIME(cudaGetDevice)(int* device) { return *device = 0; }
RUNTIME(cudaSetDevice)(int device) { return device ? gpu_error(cudaErrorInvalidDevice) : 0; }
RUNTIME(cudaDriverGetVersion)(int* version) { return *version = 13000, 0; }
RUNTIME(cudaRuntimeGetVersion)(int* version) { return *version = 13000, 0; }
RUNTIME(cudaDeviceSynchronize)() { return forbidden(); }

RUNTIME(cudaDeviceGetAttribute)(int* value, cudaDeviceAttr attribute, int) {
    switch (attribute) {
    case cudaDevAttrComputeCapabilityMajor: *value = 9; break;
    case cudaDevAttrMultiProcessorCount: *value = 132; break;
    case cudaDevAttrMaxThreadsPerBlock: *value = 1024; break;
    case cudaDevAttrMaxSharedMemoryPerBlock: *value = 48 << 10; break;
    case cudaDevAttrMaxGridDimX: *value = 0x7FFFFFFF; break;
    case cudaDevAttrWarpSize: *value = 32; break;
    default: *value = 0;
    }
    return 0;
}
RUNTIME(cudaGetDeviceProperties)(cudaDeviceProp* found, int) {
    *found = {};
    strcpy(found->name, "software GPU");
    found->totalGlobalMem = MEMORY;
    found->sharedMemPerBlock = 48 << 10;
    found->warpSize = 32;
    found->maxThreadsPerBlock = 1024;
    found->major = 9;
    found->multiProcessorCount = 132;
    found->l2CacheSize = 1 << 20;
    return 0;
}

static const char* said(int error) {
    switch (error) {
    case cudaErrorStreamCaptureUnsupported: return "cudaErrorStreamCaptureUnsupported";
    case cudaErrorStreamCaptureInvalidated: return "cudaErrorStreamCaptureInvalidated";
    case cudaErrorStreamCaptureImplicit: return "cudaErrorStreamCaptureImplicit";
    case cudaErrorMemoryAllocation: return "cudaErrorMemoryAllocation";
    case cudaErrorInvalidValue: return "cudaErrorInvalidValue";
    default: return "an error of CUDA with this number";
    }
}
EXPORT const char* software_cudaGetErrorName(int error) { return said(error); }
EXPORT const char* software_cudaGetErrorString(int) { return "said by the software GPU"; }
RUNTIME(cudaGetLastError)() {
    const int error = last_error;
    last_error = 0;
    return error;
}

// --- memory

static int unsafe() {  // memory is not for every mode of recording
    Stream* stream = recording();
    return stream && stream->mode != cudaStreamCaptureModeRelaxed ? forbidden() : 0;
}
static size_t in_pages(size_t size) { return (size + PAGE - 1) / PAGE * PAGE; }

// Behind each allocation is a page that cannot be touched; what is in it at first is all ones.
RUNTIME(cudaMalloc)(void** address, size_t size) {
    if (int error = unsafe()) return error;
    if (in_use + size > MEMORY) return gpu_error(cudaErrorMemoryAllocation);
    const size_t pages = in_pages(size);
    const int flags = MAP_PRIVATE | MAP_ANONYMOUS | MAP_NORESERVE;
    void* found = mmap(nullptr, pages + PAGE, PROT_READ | PROT_WRITE, flags, -1, 0);
    if (found == MAP_FAILED) return gpu_error(cudaErrorMemoryAllocation);
    mprotect((u8*)found + pages, PAGE, PROT_NONE);
    if (size < FILLED) memset(found, 0xFF, size);
    allocated[(u64)found] = size;
    in_use += size;
    *address = (void*)((u64)found | DEVICE);
    return 0;
}
RUNTIME(cudaFree)(void* address) {
    if (!address) return 0;
    if (int error = unsafe()) return error;
    const auto found = allocated.find((u64)host_address(address));
    if (!on_device(address) || found == allocated.end()) return gpu_error(cudaErrorInvalidValue);
    in_use -= found->second;
    munmap(host_address(address), in_pages(found->second) + PAGE);
    allocated.erase(found);
    return 0;
}
RUNTIME(cudaMemGetInfo)(size_t* free, size_t* total) {
    *total = MEMORY;
    *free = MEMORY - in_use;
    return 0;
}
RUNTIME(cudaHostAlloc)(void** address, size_t size, unsigned) {
    return posix_memalign(address, PAGE, size ? size : 1) ? cudaErrorMemoryAllocation : 0;
}
RUNTIME(cudaFreeHost)(void* address) {
    free(address);
    return 0;
}
RUNTIME(cudaPointerGetAttributes)(cudaPointerAttributes* found, void* address) {
    *found = {};
    found->type = on_device(address) ? cudaMemoryTypeDevice : cudaMemoryTypeUnregistered;
    (on_device(address) ? found->devicePointer : found->hostPointer) = address;
    return 0;
}

static int checked(void* to, const void* from, size_t size, cudaMemcpyKind kind) {
    if (kind == cudaMemcpyDefault || !size) return 0;
    const bool up = kind == cudaMemcpyHostToDevice, down = kind == cudaMemcpyDeviceToHost;
    const bool between = kind == cudaMemcpyDeviceToDevice;
    const bool fits = on_device(to) == (up || between) && on_device(from) == (down || between);
    return fits ? 0 : gpu_error(cudaErrorInvalidValue);
}
RUNTIME(cudaMemcpyAsync)(void* to, const void* from, size_t size, cudaMemcpyKind kind, void* on) {
    if (int error = checked(to, from, size, kind)) return error;
    return gpu_enqueue(on, [=] { memmove(host_address(to), host_address(from), size); });
}
RUNTIME(cudaMemcpy)(void* to, const void* from, size_t size, cudaMemcpyKind kind) {
    return software_cudaMemcpyAsync(to, from, size, kind, nullptr);
}
RUNTIME(cudaMemsetAsync)(void* to, int byte, size_t size, void* on) {
    if (!on_device(to)) return gpu_error(cudaErrorInvalidValue);
    return gpu_enqueue(on, [=] { memset(host_address(to), byte, size); });
}

// --- streams, and graphs that they record

RUNTIME(cudaStreamCreateWithPriority)(void** handle, unsigned flags, int) {
    auto stream = new Stream;
    stream->waits_for_legacy = !(flags & cudaStreamNonBlocking);
    streams.push_back(stream);
    *handle = stream;
    return 0;
}
RUNTIME(cudaStreamDestroy)(void* handle) {
    for (Stream*& stream : streams) {
        if (stream != handle) continue;
        delete stream;
        stream = streams.back();
        streams.pop_back();
        break;
    }
    return 0;
}
RUNTIME(cudaStreamSynchronize)(void* handle) {
    if (is_default(handle)) return forbidden_on_legacy();
    return ((Stream*)handle)->recorded ? forbidden() : 0;
}
RUNTIME(cudaStreamBeginCapture)(void* handle, cudaStreamCaptureMode mode) {
    if (is_default(handle)) return gpu_error(cudaErrorStreamCaptureUnsupported);
    Stream* stream = (Stream*)handle;
    if (stream->recorded) return gpu_error(cudaErrorIllegalState);
    stream->recorded = new Graph;
    stream->mode = mode;
    stream->broken = false;
    return 0;
}
RUNTIME(cudaStreamEndCapture)(void* handle, void** graph) {
    if (is_default(handle)) return gpu_error(cudaErrorStreamCaptureUnsupported);
    Stream* stream = (Stream*)handle;
    if (!stream->recorded) return gpu_error(cudaErrorIllegalState);
    *graph = stream->broken ? nullptr : stream->recorded;
    stream->recorded = nullptr;
    return stream->broken ? gpu_error(cudaErrorStreamCaptureInvalidated) : 0;
}
RUNTIME(cudaStreamIsCapturing)(void* handle, cudaStreamCaptureStatus* status) {
    *status = cudaStreamCaptureStatusNone;
    if (is_default(handle)) return forbidden_on_legacy();
    const Stream* stream = (Stream*)handle;
    if (!stream->recorded) return 0;
    *status = stream->broken ? cudaStreamCaptureStatusInvalidated : cudaStreamCaptureStatusActive;
    return 0;
}
RUNTIME(cudaGraphInstantiate)(void** executable, void* graph, unsigned long long) {
    *executable = graph;
    return 0;
}
RUNTIME(cudaGraphLaunch)(void* executable, void* stream) {
    return gpu_enqueue(stream, [=] {
        for (const Work& node : ((Graph*)executable)->nodes) node();
    });
}
RUNTIME(cudaGraphDestroy)(void*) { return 0; }  // the executable one is the same
RUNTIME(cudaGraphExecDestroy)(void* executable) {
    delete (Graph*)executable;
    return 0;
}

// --- events

RUNTIME(cudaEventCreateWithFlags)(void** handle, unsigned) {
    *handle = new Event;
    return 0;
}
RUNTIME(cudaEventDestroy)(void* handle) {
    delete (Event*)handle;
    return 0;
}
RUNTIME(cudaEventRecord)(void* handle, void* stream) {
    return gpu_enqueue(stream, [=] {
        ((Event*)handle)->at = Clock::now();
        ((Event*)handle)->happened = true;
    });
}
RUNTIME(cudaEventSynchronize)(void*) { return 0; }
RUNTIME(cudaEventQuery)(void*) { return 0; }
RUNTIME(cudaEventElapsedTime)(float* milliseconds, void* start, void* end) {
    const Event &from = *(Event*)start, &to = *(Event*)end;
    if (!from.happened || !to.happened) return gpu_error(cudaErrorInvalidResourceHandle);
    *milliseconds = std::chrono::duration<float, std::milli>(to.at - from.at).count();
    return 0;
}
