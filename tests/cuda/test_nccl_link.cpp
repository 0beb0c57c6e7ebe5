#include <chrono>
#include <cstddef>
#include <cstdint>
#include <dlfcn.h>
#include <memory>
#include <optional>
#include <span>
#include <stdexcept>
#include <string>
#include <thread>
#include <utility>
#include <vector>

#include <gtest/gtest.h>

#include "kernels/device_loader.h"
#include "runtime/error.h"
#include "tests/cuda/module_under_test.h"
#include "tests/support/expect_error.h"

namespace halfquad {
namespace {

DeviceModule& module() {
  static const LoadedDevices loaded = load_device_module(test::module_under_test());
  if (loaded.module == nullptr) throw std::runtime_error(loaded.detail);
  return *loaded.module;
}

/// Why no two devices here can be linked; empty when they can.
std::string missing() {
  try {
    static_cast<void>(module().link_identity(0));
  } catch (const Error& error) {
    if (error.code() == ErrorCode::kUsage) return error.what();
  }
  return module().devices().size() < 2 ? "there is one device only" : "";
}

constexpr int kFrom = 0, kTo = 1;  // devices
constexpr std::size_t kPiece = 4 << 20;

/// Both ends of a link, not connected yet.
struct Ends {
  std::unique_ptr<DeviceLink> from, to;
};

Ends make_ends() {
  AcceptedLink accepted = module().accept_link(kTo, module().link_identity(kFrom));
  return {module().join_link(kFrom, accepted.invitation), std::move(accepted.link)};
}

/// Has the n-th call from now on fail; null when the NCCL that is open is not the slow one of these tests.
using FailCall = void (*)(int);
FailCall fail_call() {
  void* const library = ::dlopen("libnccl.so.2", RTLD_NOW | RTLD_NOLOAD);
  if (library == nullptr) return nullptr;
  return reinterpret_cast<FailCall>(::dlsym(library, "halfquad_fail_nccl_call"));
}

template <class Work>
std::optional<Error> error_of(Work work) {
  try {
    work();
  } catch (const Error& error) {
    return error;
  }
  return std::nullopt;
}

/// Does `work` on another thread, where it must not fail.
template <class Work>
std::jthread meanwhile(Work work) {
  return std::jthread([work] {
    const std::optional<Error> error = error_of(work);
    EXPECT_FALSE(error) << error->what();
  });
}

void connect(const Ends& ends) {
  const std::jthread other = meanwhile([&ends] { ends.from->open(); });
  ends.to->open();
}

Ends connected() {
  Ends ends = make_ends();
  connect(ends);
  return ends;
}

std::vector<std::byte> some_bytes(std::size_t size, std::uint32_t seed) {
  std::vector<std::byte> bytes(size);
  for (std::byte& byte : bytes) {
    seed = seed * 1664525 + 1013904223;
    byte = static_cast<std::byte>(seed >> 24U);
  }
  return bytes;
}

TEST(NcclLink, BringsEveryByteInOrder) {
  if (const std::string why = missing(); !why.empty()) GTEST_SKIP() << why;
  const std::vector<std::size_t> sizes = {1,          0,          100,        kPiece - 1, kPiece,
                                          kPiece + 1, 2 * kPiece, 3 * kPiece, 13,         3 * kPiece + 5};
  const Ends ends = connected();
  const std::jthread sending = meanwhile([&] {
    for (const std::size_t size : sizes) ends.from->send(some_bytes(size, static_cast<std::uint32_t>(size)));
  });
  for (const std::size_t size : sizes) {
    std::vector<std::byte> got(size);
    ends.to->receive(got);
    EXPECT_TRUE(got == some_bytes(size, static_cast<std::uint32_t>(size))) << size;
  }
}

TEST(NcclLink, WorksWithPageLockedMemoryToo) {
  if (const std::string why = missing(); !why.empty()) GTEST_SKIP() << why;
  std::vector<std::byte> sent = some_bytes(3 * kPiece + 77, 1), got(sent.size());
  ASSERT_TRUE(module().lock_pages(kFrom, sent));
  ASSERT_TRUE(module().lock_pages(kTo, got));
  const Ends ends = connected();
  std::jthread sending = meanwhile([&] {
    ends.from->send(sent);
    sent.back() ^= std::byte{1};  // it has been read
  });
  ends.to->receive(got);
  EXPECT_TRUE(got == some_bytes(sent.size(), 1));
  sending.join();
  module().unlock_pages(kFrom, sent);
  module().unlock_pages(kTo, got);
}

TEST(NcclLink, LinksBothWaysBetweenTwoDevicesDoNotWaitForEachOther) {
  if (const std::string why = missing(); !why.empty()) GTEST_SKIP() << why;
  const Ends there = connected();
  AcceptedLink accepted = module().accept_link(kFrom, module().link_identity(kTo));
  const Ends back{module().join_link(kTo, accepted.invitation), std::move(accepted.link)};
  connect(back);
  const std::vector<std::byte> sent = some_bytes(2 * kPiece + 9, 5);
  std::vector<std::byte> got_there(sent.size()), got_back(sent.size());
  {
    const std::jthread a = meanwhile([&] { there.from->send(sent); });
    const std::jthread b = meanwhile([&] { back.from->send(sent); });
    const std::jthread c = meanwhile([&] { there.to->receive(got_there); });
    const std::jthread d = meanwhile([&] { back.to->receive(got_back); });
  }
  EXPECT_TRUE(got_there == sent);
  EXPECT_TRUE(got_back == sent);
}

TEST(NcclLink, AnEndThatWaitsIsLetGoByAbort) {
  if (const std::string why = missing(); !why.empty()) GTEST_SKIP() << why;
  for (const bool of_sender : {false, true}) {
    const Ends ends = connected();
    DeviceLink& waiting = of_sender ? *ends.from : *ends.to;
    const auto start = std::chrono::steady_clock::now();
    std::jthread later([&] {
      std::this_thread::sleep_for(std::chrono::milliseconds(50));
      waiting.abort();
    });
    std::vector<std::byte> data(3 * kPiece);

    const std::optional<Error> error = error_of([&] { of_sender ? waiting.send(data) : waiting.receive(data); });

    ASSERT_TRUE(error);
    EXPECT_EQ(error->code(), ErrorCode::kDevice) << error->what();
    EXPECT_LT(std::chrono::steady_clock::now() - start, std::chrono::seconds(5));
    EXPECT_TRUE(error_of([&] { waiting.receive(data); }));  // for good
  }
}

TEST(NcclLink, AnEndWhosePeerDiesFails) {
  if (const std::string why = missing(); !why.empty()) GTEST_SKIP() << why;
  for (const bool of_sender : {false, true}) {
    Ends ends = connected();
    DeviceLink& waiting = of_sender ? *ends.from : *ends.to;
    std::jthread later([&] {
      std::this_thread::sleep_for(std::chrono::milliseconds(50));
      (of_sender ? ends.to : ends.from).reset();
    });
    std::vector<std::byte> data(3 * kPiece);

    const std::optional<Error> error = error_of([&] { of_sender ? waiting.send(data) : waiting.receive(data); });

    ASSERT_TRUE(error);
    EXPECT_EQ(error->code(), ErrorCode::kDevice) << error->what();
  }
}

TEST(NcclLink, AnEndWithoutAnotherFails) {
  if (const std::string why = missing(); !why.empty()) GTEST_SKIP() << why;
  const Ends ends = make_ends();
  std::jthread later([&] {
    std::this_thread::sleep_for(std::chrono::milliseconds(50));
    ends.to->abort();  // the real library does not end by itself
  });
  const std::optional<Error> error = error_of([&] { ends.to->open(); });
  ASSERT_TRUE(error);
  EXPECT_EQ(error->code(), ErrorCode::kDevice) << error->what();
  EXPECT_TRUE(fail_call() == nullptr || error->what() == std::string("the link was given up")) << error->what();
}

/// Both ends and one transfer, on two threads; the end that fails first takes the other with it, as ranks do.
std::pair<std::optional<Error>, std::optional<Error>> transfer(std::span<const std::byte> sent,
                                                               std::span<std::byte> got) {
  Ends ends = make_ends();
  std::optional<Error> of_sender, of_receiver;
  {
    const std::jthread sending([&] {
      of_sender = error_of([&] {
        ends.from->open();
        ends.from->send(sent);
      });
      if (of_sender) ends.to->abort();
    });
    of_receiver = error_of([&] {
      ends.to->open();
      ends.to->receive(got);
    });
    if (of_receiver) ends.from->abort();
  }
  return {of_sender, of_receiver};
}

TEST(NcclLink, AnyCallMayFail) {
  if (const std::string why = missing(); !why.empty()) GTEST_SKIP() << why;
  if (fail_call() == nullptr) GTEST_SKIP() << "this NCCL does not fail on demand";
  const std::vector<std::byte> sent = some_bytes(2 * kPiece + 5, 9);
  constexpr int kCalls = 2 + 3 + 3;
  for (int call = 1; call <= kCalls + 1; ++call) {
    SCOPED_TRACE(call);
    std::vector<std::byte> got(sent.size());
    fail_call()(call);

    const auto [of_sender, of_receiver] = transfer(sent, got);

    fail_call()(0);
    EXPECT_EQ(of_sender || of_receiver, call <= kCalls);
    for (const auto& error : {of_sender, of_receiver}) {
      EXPECT_TRUE(!error || error->code() == ErrorCode::kDevice) << error->what();
    }
    EXPECT_TRUE(of_receiver || got == sent);
  }
}

TEST(NcclLink, WhatCannotBeConnectedIsRefused) {
  if (const std::string why = missing(); !why.empty()) GTEST_SKIP() << why;
  std::vector<std::byte> identity = module().link_identity(kFrom);
  test::expect_error(ErrorCode::kUsage, {"share a device"},
                     [&] { static_cast<void>(module().accept_link(kFrom, identity)); });
  test::expect_error(ErrorCode::kBadInput, {"cut off"},
                     [&] { static_cast<void>(module().accept_link(kTo, std::span(identity).first(3))); });
  test::expect_error(ErrorCode::kBadInput, {"cut off"},
                     [&] { static_cast<void>(module().join_link(kFrom, std::span(identity).first(3))); });
  identity.back() ^= std::byte{1};  // of the version
  test::expect_error(ErrorCode::kUsage, {"another version of NCCL"},
                     [&] { static_cast<void>(module().accept_link(kTo, identity)); });
}

}  // namespace
}  // namespace halfquad
