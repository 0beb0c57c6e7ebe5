#include <algorithm>
#include <chrono>
#include <filesystem>
#include <map>
#include <memory>
#include <set>
#include <string>
#include <string_view>
#include <thread>
#include <vector>

#include <gtest/gtest.h>

#include "format_limits.h"
#include "header_checkpoint.h"
#include "io/output_directory.h"
#include "io/posix_file_system.h"
#include "sharding/assembly.h"
#include "sharding/format.h"
#include "sharding/rules.h"
#include "tests/support/expect_error.h"
#include "tests/support/temp_dir.h"

namespace halfquad {
namespace {

using Sees = std::vector<bool>;
using Writers = std::vector<int>;

const std::vector<Sees>& views() {
  static const std::vector<Sees> kViews{
      {true},
      {true, true},
      {true, false},
      {true, false, false, false},
      {true, true, false, false},
      {true, false, true, false, true, false, true, false},
      {true, true, true, true, true, true, true, true},
      {true, false, false, false, false, false, false, true},
  };
  return kViews;
}

constexpr std::array kFileCounts{1U, 2U, 3U, 11U};

bool all_see(const Sees& sees) { return std::find(sees.begin(), sees.end(), false) == sees.end(); }

/// Calls `check` for every kind of assembly that is possible.
template <class Check>
void for_each_assembly(Check check) {
  for (const Sees& sees : views()) {
    for (const std::size_t files : kFileCounts) {
      for (const Assembly assembly : {Assembly::kAuto, Assembly::kDirect, Assembly::kGather}) {
        if (assembly == Assembly::kDirect && !all_see(sees)) continue;
        SCOPED_TRACE(testing::Message() << sees.size() << " ranks, " << files << " files, assembly "
                                        << static_cast<int>(assembly));
        check(assembly, sees, files, assembly_roles(assembly, sees, files));
      }
    }
  }
}

TEST(AssemblyRoles, EveryFileHasAWriterWhoSeesItForEveryRank) {
  for_each_assembly([](Assembly, const Sees& sees, std::size_t files, const std::vector<AssemblyRole>& roles) {
    ASSERT_EQ(roles.size(), sees.size());
    for (const AssemblyRole& role : roles) {
      ASSERT_EQ(role.writers.size(), files);
      for (const int writer : role.writers) EXPECT_TRUE(sees.at(static_cast<std::size_t>(writer)));
    }
  });
}

TEST(AssemblyRoles, ThoseReceiveWhomOthersSendTo) {
  for_each_assembly([](Assembly, const Sees& sees, std::size_t, const std::vector<AssemblyRole>& roles) {
    for (std::size_t rank = 0; rank < sees.size(); ++rank) {
      const auto self = static_cast<int>(rank);
      bool sent_to = false, sends = false;
      for (std::size_t other = 0; other < sees.size(); ++other) {
        for (const int writer : roles[other].writers) {
          sent_to = sent_to || (other != rank && writer == self);
          sends = sends || (other == rank && writer != self);
        }
      }
      EXPECT_EQ(roles[rank].receives, sent_to) << "rank " << rank;
      EXPECT_EQ(roles[rank].sends(self), sends) << "rank " << rank;
      const Writers& own = roles[rank].writers;
      EXPECT_EQ(roles[rank].writes(self), sent_to || std::find(own.begin(), own.end(), self) != own.end());
    }
  });
}

TEST(AssemblyRoles, WhoSeesTheFilesWritesItselfUnlessItIsToGather) {
  for_each_assembly([](Assembly assembly, const Sees& sees, std::size_t files, const auto& roles) {
    if (assembly == Assembly::kGather) return;
    for (std::size_t rank = 0; rank < sees.size(); ++rank) {
      if (sees[rank]) {
        EXPECT_EQ(roles[rank].writers, Writers(files, static_cast<int>(rank)));
      } else {
        EXPECT_FALSE(roles[rank].writes(static_cast<int>(rank)));
      }
    }
  });
}

TEST(AssemblyRoles, GatherHasOneWriterAFile) {
  for_each_assembly([](Assembly assembly, const Sees& sees, std::size_t files, const auto& roles) {
    if (assembly != Assembly::kGather) return;
    const Writers& writers = roles[0].writers;
    for (const AssemblyRole& role : roles) EXPECT_EQ(role.writers, writers);
    // On as many ranks as there can be, none with two files more than another.
    std::map<int, std::size_t> files_of;
    for (const int writer : writers) ++files_of[writer];
    const auto seeing = static_cast<std::size_t>(std::count(sees.begin(), sees.end(), true));
    EXPECT_EQ(files_of.size(), std::min(files, seeing));
    const auto fewer = [](const auto& one, const auto& other) { return one.second < other.second; };
    const auto [least, most] = std::minmax_element(files_of.begin(), files_of.end(), fewer);
    EXPECT_LE(most->second - least->second, 1U);
    EXPECT_EQ(writers[0], 0);
  });
}

TEST(AssemblyRoles, GatherPutsFewWritersApart) {
  const std::vector<AssemblyRole> roles = assembly_roles(Assembly::kGather, Sees(8, true), 2);

  EXPECT_EQ(roles[5].writers, (Writers{0, 4}));
}

TEST(AssemblyRoles, SpreadsSendersOverTheWriters) {
  for_each_assembly([](Assembly assembly, const Sees& sees, std::size_t files, const auto& roles) {
    if (assembly == Assembly::kGather) return;
    for (std::size_t file = 0; file < files; ++file) {
      std::map<int, std::size_t> senders_of;
      for (std::size_t rank = 0; rank < sees.size(); ++rank) {
        if (sees[rank]) {
          senders_of[static_cast<int>(rank)] += 0;
        } else {
          ++senders_of[roles[rank].writers[file]];
        }
      }
      const auto fewer = [](const auto& one, const auto& other) { return one.second < other.second; };
      const auto [least, most] = std::minmax_element(senders_of.begin(), senders_of.end(), fewer);
      EXPECT_LE(most->second - least->second, 1U) << "file " << file;
    }
  });
}

TEST(AssemblyRole, ReadsWhatItWrote) {
  for (const bool receives : {false, true}) {
    const AssemblyRole role{{3, 0, 7}, receives};
    WireWriter out;
    role.write(out);
    const std::vector<std::byte> bytes = out.take();
    WireReader in(bytes);

    const AssemblyRole read = AssemblyRole::read(in);

    EXPECT_TRUE(in.empty());
    EXPECT_EQ(read.writers, role.writers);
    EXPECT_EQ(read.receives, receives);
    for (std::size_t length = 0; length < bytes.size(); ++length) {
      WireReader cut({bytes.data(), length});
      test::expect_error(ErrorCode::kBadInput, {"cut off"}, [&] { static_cast<void>(AssemblyRole::read(cut)); });
    }
  }
}

// ---- memory

Plan plan_of(std::vector<std::uint64_t> output_bytes) {
  Plan plan;
  for (const std::uint64_t bytes : output_bytes) plan.items.push_back({.output_bytes = bytes});
  return plan;
}

TEST(AssemblyMemory, IsNothingForARankThatWritesForItself) {
  const AssemblyMemory memory = assembly_memory({{2, 2}, false}, 2, plan_of({10, 30, 20}), 4, 1'000);

  EXPECT_EQ(memory.send, 0U);
  EXPECT_EQ(memory.receive, 0U);
}

TEST(AssemblyMemory, OfASenderIsTheLargestResultForEveryThread) {
  const AssemblyMemory memory = assembly_memory({{2, 0}, false}, 2, plan_of({10, 30, 20}), 4, 1'000);

  EXPECT_EQ(memory.send, 120U);
  EXPECT_EQ(memory.receive, 0U);
}

TEST(AssemblyMemory, OfAReceiverIsAPartOfTheBudgetThatHoldsTheLargestResult) {
  const auto receive = [](std::uint64_t budget) {
    const AssemblyMemory memory = assembly_memory({{2}, true}, 2, plan_of({10, 30, 20}), 4, budget);
    EXPECT_EQ(memory.send, 0U);
    return memory.receive;
  };
  EXPECT_EQ(receive(1'000), 250U);
  EXPECT_EQ(receive(40), 30U);
  EXPECT_EQ(receive(1ULL << 40), 256ULL << 20);
}

TEST(AssemblyMemory, OfAReceiverLeavesThePipelineWhatItNeedsAtLeast) {
  Plan plan = plan_of({10, 30, 20});
  plan.largest_item_bytes = 1 << 20;
  const auto receive = [&](std::uint64_t beyond) {
    return assembly_memory({{2, 0}, true}, 2, plan, 4, minimum_memory(plan) + 120 + beyond).receive;
  };
  EXPECT_EQ(receive(29), 30U);
  EXPECT_EQ(receive(30), 30U);
  EXPECT_EQ(receive(1'000), 1'000U);
}

// Of a model with one layer.
std::uint64_t combining_memory_of(std::string_view name, std::uint64_t free_bytes) {
  const HeaderCheckpoint checkpoint({{"model.layers.0.mlp.up_proj.weight", {64, 128}}});
  const Format& format = *format_named(name);
  const OutputLayout layout(*checkpoint,
                            decide(*checkpoint, parse_recipe(R"({"group_size": 64})", "test"), test::limits_of(format)),
                            DType::kF16, OutputLayout::kOneFile, format);
  return combining_memory(layout, free_bytes);
}

TEST(CombiningMemory, IsAPartOfWhatIsFreeWhereTensorsLieTransposed) {
  EXPECT_EQ(combining_memory_of("awq", 400), 100U);
  EXPECT_EQ(combining_memory_of("gptq", 1ULL << 40), 512ULL << 20);
  EXPECT_EQ(combining_memory_of("awq", 0), 0U);
  EXPECT_EQ(combining_memory_of("mlx", 1ULL << 40), 0U);
  EXPECT_EQ(combining_memory_of("hqq", 1ULL << 40), 0U);
}

// ---- the probe

class Probe : public ::testing::Test {
 protected:
  Probe() { std::filesystem::create_directories(partial() / kPrivateFolder); }
  [[nodiscard]] std::filesystem::path partial() const { return temp_.path() / "out.partial"; }
  [[nodiscard]] bool find(const std::string& token, int patience_ms = 0) {
    return find_probe(*fs_, partial(), token, std::chrono::milliseconds(patience_ms), stop_);
  }

  test::TempDir temp_;
  std::unique_ptr<FileSystem> fs_ = make_posix_file_system();
  StopFlag stop_;
};

TEST_F(Probe, IsFoundByItsToken) {
  const std::string token = random_token();
  leave_probe(*fs_, partial(), token);

  EXPECT_TRUE(find(token));
}

TEST_F(Probe, OfAnotherRunIsNotTakenForThisOnes) {
  leave_probe(*fs_, partial(), random_token());
  const std::string token = random_token();
  EXPECT_FALSE(find(token, 20));

  leave_probe(*fs_, partial(), token);
  EXPECT_TRUE(find(token));
}

TEST_F(Probe, MayBeMissingWithItsFoldersOrUnreadable) {
  EXPECT_FALSE(find("token", 20));
  std::filesystem::remove_all(partial() / kPrivateFolder);
  EXPECT_FALSE(find("token", 20));
  std::filesystem::remove_all(partial());
  EXPECT_FALSE(find("token", 20));
  test::put_file(partial(), "a file");
  EXPECT_FALSE(find("token", 20));
  std::filesystem::remove(partial());
  std::filesystem::create_directories(partial() / kPrivateFolder / "probe");
  EXPECT_FALSE(find("token", 20));
  std::filesystem::remove(partial() / kPrivateFolder / "probe");
  test::put_file(partial() / kPrivateFolder / "probe", std::string(100'000, 'x'));
  EXPECT_FALSE(find("token", 20));
}

TEST_F(Probe, IsFoundWhenItAppearsLate) {
  std::filesystem::remove_all(partial());
  std::jthread later([&] {
    std::this_thread::sleep_for(std::chrono::milliseconds(40));
    std::filesystem::create_directories(partial() / kPrivateFolder);
    leave_probe(*fs_, partial(), "token");
  });

  EXPECT_TRUE(find("token", 30'000));
}

TEST_F(Probe, IsNoLongerLookedForAfterAStop) {
  std::jthread later([&] {
    std::this_thread::sleep_for(std::chrono::milliseconds(20));
    stop_.request();
  });

  test::expect_error(ErrorCode::kInterrupted, {"interrupted"}, [&] { static_cast<void>(find("token", 30'000)); });
}

TEST(RandomToken, IsAnotherEachTime) {
  std::set<std::string> tokens;
  for (int i = 0; i < 20; ++i) tokens.insert(random_token());

  EXPECT_EQ(tokens.size(), 20U);
  EXPECT_EQ(tokens.begin()->size(), 32U);
}

}  // namespace
}  // namespace halfquad
