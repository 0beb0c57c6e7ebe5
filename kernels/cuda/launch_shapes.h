#pragma once

// Threads of a block and blocks of a multiprocessor, from which the compiler derives how many registers a thread may
// have: 65536 / (threads * blocks), on every architecture from sm_80 to sm_100. Their shared memory, 164 KiB and more,
// is no limit here.

namespace halfquad::cuda {

inline constexpr int kThreads = 128;  ///< By rows, one for each group of kThreads / slabs packed rows.
inline constexpr int kWarps = kThreads / 32;

/// Threads that search a group together, for als and for whole zeros, each with every fourth weight of it.
inline constexpr int kQuad = 4;

/// Blocks of a kernel that should fit a multiprocessor at once: as many as leave room for the weights in registers.
struct Occupancy {
  int registers32, registers64, registers128;  ///< Kernels with so many weights of each thread in registers.
  int general;
  int als32, als64, als128;  ///< Kernels for groups of so many weights; a thread has four numbers for each of its own.
  int als_general;
  int whole32, whole64, whole128;  ///< The same for whole zeros, with two numbers for each weight.
  int whole_general;
  int floats16, floats32;  ///< Kernels for floating-point grids, with two numbers for each weight of a thread's group.
};
inline constexpr Occupancy kOccupancy = {6, 4, 2, 7, 5, 4, 2, 6, 6, 4, 3, 6, 7, 4};

constexpr int blocks_with_registers(int group_elems) {
  return group_elems == 32   ? kOccupancy.registers32
         : group_elems == 64 ? kOccupancy.registers64
                             : kOccupancy.registers128;
}

constexpr int blocks_with_als(int group_elems) {
  return group_elems == 32 ? kOccupancy.als32 : group_elems == 64 ? kOccupancy.als64 : kOccupancy.als128;
}

constexpr int blocks_with_whole(int group_elems) {
  return group_elems == 32 ? kOccupancy.whole32 : group_elems == 64 ? kOccupancy.whole64 : kOccupancy.whole128;
}

constexpr int blocks_with_floats(int group_elems) {
  return group_elems == 16 ? kOccupancy.floats16 : kOccupancy.floats32;
}

/// Groups in turn for each warp of the general kernel for rows.
inline constexpr int kGroupsOfWarp = 8;

}  // namespace halfquad::cuda
