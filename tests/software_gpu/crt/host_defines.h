// In the place of NVIDIA's header of this name, which is in a package of its own: the marks on
// declarations that driver_types.h and vector_types.h use. They mean nothing here.
#pragma once
#define CUDART_CB
#define __align__(size) __attribute__((aligned(size)))
#define __builtin_align__(size) __attribute__((aligned(size)))
#define __device__
#define __device_builtin__
#define __device_builtin_surface_type__
#define __device_builtin_texture_type__
#define __host__
