#pragma once

#include <atomic>
#include <cstdint>
#include <functional>
#include <map>
#include <memory>
#include <mutex>
#include <set>
#include <span>
#include <string>
#include <vector>

#include "kernels/device.h"
#include "tests/support/fake_link.h"

namespace halfquad::test {

/// What a device has to do with a tile, by a host solver.
[[nodiscard]] DeviceResult solve_tile(Solver& solver, const DeviceTile& tile);

/// How fake devices misbehave; device numbers are DeviceInfo::index.
struct FakeFaults {
  std::set<int> wrong = {};              ///< Their codes are off by one bit.
  std::map<int, int> lost_at = {};       ///< The device fails at this solve() call (1: the first), and ever after.
  std::map<int, int> most_solvers = {};  ///< The device has memory for so many solvers.
  bool no_page_locks = false;
  std::uint64_t most_memory = ~std::uint64_t{0};  ///< Of a solver.
  std::function<void()> before_open = {};         ///< Called before a solver is made; may block.
  LinkFaults links = {};
};

/// Whether fake devices can be linked to those of other FakeDevices in this process.
enum class FakeLinks : std::uint8_t { kNo, kYes };

/// Devices that solve on the host.
class FakeDevices final : public DeviceModule {
 public:
  explicit FakeDevices(int count, FakeFaults faults = {}, FakeLinks links = FakeLinks::kNo)
      : count_(count), faults_(std::move(faults)), links_(links) {}

  [[nodiscard]] std::vector<DeviceInfo> devices() override;
  [[nodiscard]] std::unique_ptr<DeviceSolver> make_solver(int index, std::uint64_t memory_bytes) override;
  [[nodiscard]] std::unique_ptr<Gemm> make_gemm(int /*index*/) override { return make_plain_gemm(); }
  [[nodiscard]] bool lock_pages(int index, std::span<std::byte> memory) noexcept override;
  void unlock_pages(int index, std::span<std::byte> memory) noexcept override;
  [[nodiscard]] std::uint64_t wanted_bytes(std::int64_t tile_weights) const noexcept override;
  [[nodiscard]] std::vector<std::byte> link_identity(int index) override;
  [[nodiscard]] AcceptedLink accept_link(int index, std::span<const std::byte> identity) override;
  [[nodiscard]] std::unique_ptr<DeviceLink> join_link(int index, std::span<const std::byte> invitation) override;
  [[nodiscard]] std::string name() const override { return "fake devices"; }

  [[nodiscard]] int solve_calls(int index);
  [[nodiscard]] std::uint64_t locked_bytes() const noexcept { return locked_bytes_; }
  [[nodiscard]] std::uint64_t most_locked_bytes() const noexcept { return most_locked_bytes_; }
  [[nodiscard]] int coded_tiles() const noexcept { return coded_tiles_; }              ///< That were not yet decoded.
  [[nodiscard]] std::size_t largest_batch() const noexcept { return largest_batch_; }  ///< After the self-checks.
  [[nodiscard]] std::vector<std::uint64_t> budgets();                                  ///< Of the solvers made so far.

 private:
  class FakeSolver;
  std::vector<DeviceResult> solve(int index, Solver& solver, std::span<const DeviceTile> tiles);

  const int count_;
  const FakeFaults faults_;
  const FakeLinks links_;
  std::mutex mutex_;  // guards what follows
  std::map<int, int> calls_, solvers_;
  std::vector<std::uint64_t> budgets_;
  std::atomic<std::uint64_t> locked_bytes_{0}, most_locked_bytes_{0};
  std::size_t largest_batch_ = 0;
  std::atomic<int> coded_tiles_{0};
};

}  // namespace halfquad::test
