#include <filesystem>
#include <map>
#include <memory>
#include <string>
#include <vector>

#include <fmt/format.h>
#include <gtest/gtest.h>

#include "launcher/exit_code.h"
#include "tests/support/faulty_file_system.h"
#include "tests/support/test_checkpoint.h"
#include "tests/unit/launcher/cli_fixture.h"

namespace halfquad {
namespace {

using test::After;
using test::CliTest;
using test::FaultPlan;
using test::FaultyFileSystem;
using test::get_file;
using test::Outcome;
using test::put_file;

/// Contents by name; the report's is left out, since it holds times.
using Files = std::map<std::string, std::string>;

Files files_in(const std::string& directory) {
  Files files;
  for (const auto& entry : std::filesystem::directory_iterator(directory)) {
    const std::string name = entry.path().filename().string();
    const bool content = name != "halfquad_report.json" && !entry.is_directory();
    files[name] = content ? get_file(entry.path()) : "";
  }
  return files;
}

/// The same without the private folder, which a run leaves that dies right after giving the output its name.
Files output_files_in(const std::string& directory) {
  Files files = files_in(directory);
  files.erase(".halfquad");
  return files;
}

std::vector<float> some_weights(std::size_t count, unsigned seed) {
  std::vector<float> values;
  for (std::size_t i = 0; i < count; ++i) {
    seed = seed * 1664525U + 1013904223U;
    values.push_back((static_cast<float>(seed >> 8U) * 0x1p-23F - 1.0F) * 0.05F);
  }
  return values;
}

/// Runs `halfquad quantize` on a small sharded model again and again, each time with another failing call.
class QuantizeFaults : public CliTest {
 protected:
  QuantizeFaults() {
    std::filesystem::create_directory(model_);
    put_file(model_ + "/config.json", R"({"model_type": "llama"})");
    put_file(model_ + "/tokenizer.json", "{}");
    put_file(model_ + "/LICENSE", "free");
    put_file(model_ + "/model.safetensors.index.json",
             test::index_text({{name(0), shard(1)}, {name(1), shard(1)}, {name(2), shard(2)}, {norm_, shard(2)}}));
    const auto layer = [&](unsigned i) { return test::f32_tensor(name(i), {64, 64}, some_weights(64 * 64, i + 1)); };
    test::put_safetensors(model_ + "/" + shard(1), {layer(0), layer(1)});
    test::put_safetensors(model_ + "/" + shard(2), {layer(2), test::f32_tensor(norm_, {64}, some_weights(64, 9))});
  }

  static std::string name(unsigned i) { return fmt::format("model.layers.{}.mlp.up_proj.weight", i); }
  static std::string shard(int i) { return fmt::format("model-{:05}-of-00002.safetensors", i); }

  Outcome quantize(FileSystem& fs, const std::vector<std::string>& more = {}) {
    std::vector<std::string> arguments = {"quantize", model_,       out_,   "--threads",   "1",  "--memory",
                                          "64MiB",    "--progress", "none", "--log-level", "off"};
    arguments.insert(arguments.end(), more.begin(), more.end());
    return run_on(fs, arguments);
  }

  /// What a run that nothing disturbs writes.
  Files undisturbed(const std::vector<std::string>& more = {}) {
    const Outcome outcome = quantize(*files_, more);
    EXPECT_EQ(outcome.code, kExitDone) << outcome.err;
    const Files files = files_in(out_);
    EXPECT_EQ(files.size(), 5U);  // weights, configuration, report, tokenizer, licence
    return files;
  }

  struct Fault {
    std::uint64_t call = 0;
    After after = After::kWorks;
    bool can_exchange = true;
  };

  /// One run with a fault; checks what the user sees and returns whether the fault was reached.
  bool run_with(const Fault& fault, const std::vector<std::string>& more, std::shared_ptr<FaultPlan>& plan) {
    plan = std::make_shared<FaultPlan>(fault.call, fault.after);
    FaultyFileSystem faulty(*files_, plan);
    if (!fault.can_exchange) faulty.refuse_exchange();
    const Outcome outcome = quantize(faulty, more);
    if (outcome.code != kExitDone) {
      EXPECT_TRUE(outcome.code == kExitIo || outcome.code == kExitBadInput) << outcome.code << ": " << outcome.err;
      expect_error_line(outcome);
      EXPECT_NE(outcome.err.find(directory_.path().string()), std::string::npos) << outcome.err;
    } else {
      EXPECT_EQ(outcome.err, "");
    }
    return plan->fired();
  }

  [[nodiscard]] std::vector<std::string> names() { return files_->list(directory_.path()); }

  const std::string norm_ = "model.norm.weight";
  std::string model_ = path("model");
  std::string out_ = path("out");
};

TEST_F(QuantizeFaults, AFailingCallLeavesNoOutputOrAWholeOneAndTheNextRunSucceeds) {
  const Files expected = undisturbed();
  for (const After after : {After::kWorks, After::kDead}) {
    bool fired = true;
    std::uint64_t call = 1;
    for (; fired; ++call) {
      std::filesystem::remove_all(out_);
      std::shared_ptr<FaultPlan> plan;
      fired = run_with({call, after}, {}, plan);
      SCOPED_TRACE(fmt::format("call {} ({}), {}", call, plan->failed_call(), after == After::kDead ? "dead" : "once"));
      const bool complete = std::filesystem::exists(out_);
      if (complete) {
        ASSERT_TRUE(output_files_in(out_) == expected);
      }

      const Outcome again =
          quantize(*files_, complete ? std::vector<std::string>{"--overwrite"} : std::vector<std::string>{});

      ASSERT_EQ(again.code, kExitDone) << again.err;
      ASSERT_TRUE(files_in(out_) == expected);
      ASSERT_EQ(names(), (std::vector<std::string>{"model", "out"}));
    }
    EXPECT_GT(call, 60U);
  }
}

TEST_F(QuantizeFaults, OverwritingHasTheOldOrTheNewOutputWholeAtAnyTime) {
  const Files fresh = undisturbed();
  std::filesystem::remove_all(out_);
  const Files old = undisturbed({"--bits", "8"});
  ASSERT_NE(old.at("model.safetensors"), fresh.at("model.safetensors"));
  std::filesystem::rename(out_, path("old"));

  bool was_away = false;
  for (const bool can_exchange : {true, false}) {
    for (const After after : {After::kWorks, After::kDead}) {
      bool fired = true;
      for (std::uint64_t call = 1; fired; ++call) {
        std::filesystem::remove_all(out_);
        std::filesystem::copy(path("old"), out_);
        std::shared_ptr<FaultPlan> plan;
        fired = run_with({call, after, can_exchange}, {"--overwrite"}, plan);
        SCOPED_TRACE(fmt::format("call {} ({}), {}, {}", call, plan->failed_call(),
                                 after == After::kDead ? "dead" : "once", can_exchange ? "exchange" : "two renames"));
        if (std::filesystem::exists(out_)) {
          const Files files = output_files_in(out_);
          ASSERT_TRUE(files == old || files == fresh);
        } else {
          ASSERT_FALSE(can_exchange);
          ASSERT_EQ(after, After::kDead);
          ASSERT_TRUE(files_in(out_ + ".replaced") == old);
          was_away = true;
        }

        const Outcome again = quantize(*files_, {"--overwrite"});

        ASSERT_EQ(again.code, kExitDone) << again.err;
        ASSERT_TRUE(files_in(out_) == fresh);
        ASSERT_EQ(names(), (std::vector<std::string>{"model", "old", "out"}));
      }
    }
  }
  EXPECT_TRUE(was_away);
}

}  // namespace
}  // namespace halfquad
