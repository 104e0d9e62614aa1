// The functions of the CUDA driver that CuPy calls: libraries of kernels, and their launches.
#include <dlfcn.h>

#include <memory>
#include <vector>

#include <driver_types.h>

#include "gpu.h"

Place gpu_place;
u8 gpu_shared[48 << 10];
u64 gpu_shared_size;

// --- the threads of a block, taking turns: each is a fiber, and runs until it waits or ends

// Goes on with another stack, and keeps where it was. swapcontext would do, but asks the system
// for signal masks each time, which takes longer than most threads run.
extern "C" void switch_stacks(void** kept, void* to);
asm(R"(
.pushsection .text
switch_stacks:
    pushq %rbp
    pushq %rbx
    pushq %r12
    pushq %r13
    pushq %r14
    pushq %r15
    movq %rsp, (%rdi)
    movq %rsi, %rsp
    popq %r15
    popq %r14
    popq %r13
    popq %r12
    popq %rbx
    popq %rbp
    ret
.popsection
)");

enum State { READY, AT_WARP, AT_BLOCK, DONE };
struct Fiber {
    void* top;  // of its stack, while it waits
    std::unique_ptr<char[]> stack;
    Index at;
    State state;
    u32 members;  // of its warp, for whom it waits
};
static constexpr u32 WARP = 32, MOST_THREADS = 1024, STACK = 1 << 16;
static Fiber fibers[MOST_THREADS];
static void* scheduler;
static u32 current, threads;
static u32 shuffled[MOST_THREADS];
static const Entry* kernel;  // that runs, if any
static const u8* parameters;

void gpu_failed(const char* what, u64 number) {
    dprintf(gpu_console, "\nsoftware GPU: %s %#llx", what, (unsigned long long)number);
    dprintf(gpu_console, kernel ? " in kernel %s\n" : "\n", kernel ? kernel->name : "");
    abort();
}

static void wait(State state, u32 members = 0) {
    Fiber& fiber = fibers[current];
    fiber.state = state;
    fiber.members = members;
    switch_stacks(&fiber.top, scheduler);
}
void gpu_wait_for_block() { wait(AT_BLOCK); }
void gpu_wait_for_warp(u32 members) {
    if (!(members >> current % WARP & 1)) gpu_failed("a thread is not in its own mask", members);
    wait(AT_WARP, members);
}
// PTX's shfl.bfly: the word of the lane whose number differs in these bits, inside of the segment
u32 gpu_shuffle_xor(u32 word, u32 mask, u32 width, u32 members, bool& inside) {
    const u32 own = current, lane = own % WARP, segment = width >> 8 & 31, clamp = width & 31;
    shuffled[own] = word;
    gpu_wait_for_warp(members);
    const u32 last = (lane & segment) | (clamp & ~segment), other = lane ^ (mask & 31);
    inside = other <= last;
    const u32 from = own - lane + (inside ? other : lane);
    if (!(members >> from % WARP & 1) || from >= threads)
        gpu_failed("a shuffle reads a lane that is not in its mask", members);
    const u32 result = shuffled[from];
    gpu_wait_for_warp(members);
    return result;
}

static void whole() {
    kernel->run(parameters);
    wait(DONE);
}
static Index place_in_block(u32 thread) {
    const Index& size = gpu_place.block_size;
    return {thread % size.x, thread / size.x % size.y, thread / size.x / size.y};
}
static void make_fiber(u32 thread) {
    Fiber& fiber = fibers[thread];
    if (!fiber.stack) fiber.stack.reset(new char[STACK]);
    // Six registers, where to return to, and, as if whole had been called, what is aligned to 16.
    void** top = (void**)((u64)(fiber.stack.get() + STACK) & ~15ull) - 8;
    top[6] = (void*)whole;
    fiber.top = top;
    fiber.at = place_in_block(thread);
    fiber.state = READY;
}
static u32 lanes_in(u32 first, State state) {  // a bit for each
    u32 found = 0;
    for (u32 lane = 0; lane < WARP && first + lane < threads; ++lane)
        found |= (u32)(fibers[first + lane].state == state) << lane;
    return found;
}
// Lets those of a warp go on whose whole mask has come, or ended.
static bool release_warp(u32 first) {
    const u32 waiting = lanes_in(first, AT_WARP), ended = lanes_in(first, DONE);
    u32 released = 0;
    for (u32 lane = 0; lane < WARP; ++lane) {
        if (!(waiting >> lane & 1)) continue;
        const u32 members = fibers[first + lane].members & ~ended;
        const u32 exist = threads - first < WARP ? (1u << (threads - first)) - 1 : ~0u;
        if ((members & exist & ~waiting) == 0) released |= 1u << lane;
    }
    for (u32 lane = 0; lane < WARP; ++lane)
        if (released >> lane & 1) fibers[first + lane].state = READY;
    return released;
}
static bool release_warps() {
    bool released = false;
    for (u32 first = 0; first < threads; first += WARP) released |= release_warp(first);
    return released;
}
static bool release_block() {  // threads that have ended count as having come
    u32 waiting = 0, ended = 0;
    for (u32 i = 0; i < threads; ++i) {
        waiting += fibers[i].state == AT_BLOCK;
        ended += fibers[i].state == DONE;
    }
    if (ended == threads) return false;
    if (waiting + ended < threads)
        gpu_failed("threads wait for ever for others, who wait elsewhere:", waiting);
    for (u32 i = 0; i < threads; ++i)
        if (fibers[i].state == AT_BLOCK) fibers[i].state = READY;
    return true;
}

// The order of threads must not matter; this one can be turned round to see.
static u32 in_turn(u32 i) {
    static const bool reverse = getenv("SOFTWARE_GPU_REVERSE");
    return reverse ? threads - 1 - i : i;
}
static void run_in_turns() {
    for (u32 i = 0; i < threads; ++i) make_fiber(i);
    do {
        for (u32 i = 0; i < threads; ++i) {
            current = in_turn(i);
            if (fibers[current].state != READY) continue;
            gpu_place.thread = fibers[current].at;
            switch_stacks(&scheduler, fibers[current].top);
        }
    } while (release_warps() || release_block());
}
static void run_block() {
    memset(gpu_shared, 0xFF, gpu_shared_size);
    if (kernel->waits) return run_in_turns();
    for (u32 i = 0; i < threads; ++i) {
        gpu_place.thread = place_in_block(in_turn(i));
        kernel->run(parameters);
    }
}
static void run_grid(const Entry* entry, Index grid, Index block, u32 shared, const u8* values) {
    kernel = entry, parameters = values, gpu_shared_size = shared;
    threads = block.x * block.y * block.z;
    gpu_place.grid_size = grid, gpu_place.block_size = block;
    Index& at = gpu_place.block;
    for (at.z = 0; at.z < grid.z; ++at.z)
        for (at.y = 0; at.y < grid.y; ++at.y)
            for (at.x = 0; at.x < grid.x; ++at.x) run_block();
    kernel = nullptr;
}

// --- the driver's functions

EXPORT int cuGetErrorName(int, const char** text) { return *text = "CUDA_ERROR", 0; }
EXPORT int cuGetErrorString(int, const char** text) { return *text = "of the software GPU", 0; }
EXPORT int cuModuleUnload(void*) { return 0; }  // graphs may still run its kernels

// The image is the path of a library, which sitecustomize.py had made from PTX.
EXPORT int cuModuleLoadData(void** module, const char* path) {
    void* library = dlopen(path, RTLD_NOW | RTLD_LOCAL);
    if (!library) {
        dprintf(gpu_console, "software GPU: %s\n", dlerror());
        return gpu_error(cudaErrorInvalidKernelImage);
    }
    *module = dlsym(library, "entries");
    return 0;
}
EXPORT int cuModuleGetFunction(const Entry** function, const Entry* entries, const char* name) {
    for (const Entry* entry = entries; entry->name; ++entry) {
        if (strcmp(entry->name, name)) continue;
        *function = entry;
        return 0;
    }
    return gpu_error(cudaErrorSymbolNotFound);
}

static bool can_be_launched(const Entry* entry, Index grid, Index block, u32 shared) {
    const u64 size = (u64)block.x * block.y * block.z;
    return size && size <= MOST_THREADS && block.z <= 64 && grid.x && grid.y && grid.z
        && grid.x <= 0x7FFFFFFF && grid.y <= 0xFFFF && grid.z <= 0xFFFF
        && entry->shared + shared <= sizeof gpu_shared;
}
static std::vector<u64> packed(const Entry* entry, void** values) {
    u32 size = 0;
    for (u32 i = 0; i < entry->parameters; ++i)
        size = entry->layout[2 * i] + entry->layout[2 * i + 1];
    std::vector<u64> block(size / 8 + 1);
    for (u32 i = 0; i < entry->parameters; ++i)
        memcpy((u8*)block.data() + entry->layout[2 * i], values[i], entry->layout[2 * i + 1]);
    return block;
}
EXPORT int cuLaunchKernel(const Entry* entry, u32 grid_x, u32 grid_y, u32 grid_z, u32 block_x,
                          u32 block_y, u32 block_z, u32 shared, void* stream, void** values,
                          void**) {
    const Index grid{grid_x, grid_y, grid_z}, block{block_x, block_y, block_z};
    static const bool logged = getenv("SOFTWARE_GPU_LOG");
    const bool allowed = can_be_launched(entry, grid, block, shared);
    if (logged || !allowed)
        dprintf(gpu_console, "software GPU: %s%s, grid %u %u %u, block %u %u %u, %u shared\n",
                entry->name, allowed ? "" : " cannot be launched", grid.x, grid.y, grid.z, block.x,
                block.y, block.z, entry->shared + shared);
    if (!allowed) return gpu_error(cudaErrorInvalidValue);
    const auto kept = packed(entry, values);
    return gpu_enqueue(stream, [=] {
        run_grid(entry, grid, block, entry->shared + shared, (const u8*)kept.data());
    });
}
