// What the libraries of the software GPU share: work on streams.
#pragma once
#include <cstdio>
#include <cstdlib>
#include <functional>

#include "words.h"

inline bool on_device(const void* address) { return ((u64)address & MARKS) == DEVICE; }
inline u8* host_address(const void* address) { return (u8*)((u64)address & ~MARKS); }

// Work that a stream is given is done at once, or kept in the graph that the stream records. Gives
// one of CUDA's error codes: 0 if the work was taken.
EXPORT int gpu_enqueue(void* stream, std::function<void()> work);
// Remembers the error for cudaGetLastError, and gives it back.
EXPORT int gpu_error(int code);
extern int gpu_console;
