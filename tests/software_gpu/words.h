// Words, addresses, and what a library of kernels tells about itself. Kernels include this too, so
// that it must compile fast.
#pragma once
#include <cstdint>
#include <cstring>

using u8 = uint8_t;
using u16 = uint16_t;
using u32 = uint32_t;
using u64 = uint64_t;
using s8 = int8_t;
using s16 = int16_t;
using s32 = int32_t;
using s64 = int64_t;

#define EXPORT extern "C" __attribute__((visibility("default")))

// The GPU's memory is the host's, but its addresses carry a mark in bits that no address of the
// host has: neither host code nor kernels can follow an address that is not theirs.
constexpr u64 DEVICE = 1ull << 56, MARKS = 0xFFull << 56;

struct Index {
    u32 x, y, z;
};
// Where the thread that runs is; PTX's %tid, %ctaid, %ntid and %nctaid.
struct Place {
    Index thread, block, block_size, grid_size;
};

struct Entry {
    const char* name;
    void (*run)(const u8* parameters);
    const u32* layout;  // offset and size of each parameter
    u32 parameters;
    u32 shared;  // bytes
    bool waits;  // threads wait for each other: they must be able to take turns
};

// What kernels and the library have of each other.
EXPORT Place gpu_place;
EXPORT u8 gpu_shared[];
EXPORT u64 gpu_shared_size;
EXPORT void gpu_wait_for_block();
EXPORT void gpu_wait_for_warp(u32 mask);
EXPORT u32 gpu_shuffle_xor(u32 word, u32 mask, u32 width, u32 members, bool& inside);
// Nothing can be done about it, and nothing must hide it: says so and ends the process.
extern "C" [[noreturn]] __attribute__((visibility("default"))) void gpu_failed(const char* what,
                                                                               u64 number);
