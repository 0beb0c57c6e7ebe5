#include <algorithm>
#include <filesystem>

#include <boost/json/array.hpp>
#include <boost/json/parse.hpp>

#include "launcher/exit_code.h"
#include "tests/support/test_checkpoint.h"
#include "tests/unit/launcher/cli_fixture.h"

namespace halfquad {
namespace {

using test::CliTest;
using test::get_file;
using test::Outcome;
using test::put_file;

bool has(const std::string& text, const std::string& part) { return text.find(part) != std::string::npos; }

/// Commands on a tiny synthetic model.
class CommandTest : public CliTest {
 protected:
  CommandTest() {
    const Outcome made = run({"synth", model_, "--layers", "2", "--threads", "2", "--progress", "none"});
    EXPECT_EQ(made.code, kExitDone) << made.err;
    put_file(model_ + "/tokenizer.json", "{\"tokenizer\": true}");
  }

  Outcome quantize(std::vector<std::string> more = {}) {
    std::vector<std::string> arguments = {"quantize",   model_, out_,          "--threads", "2",
                                          "--progress", "none", "--log-level", "off"};
    arguments.insert(arguments.end(), more.begin(), more.end());
    return run(arguments);
  }

  void expect_refused(int code, const std::vector<std::string>& options, const std::vector<std::string>& parts) {
    const Outcome outcome = quantize(options);
    expect_error_line(outcome);
    EXPECT_EQ(outcome.code, code) << outcome.err;
    for (const std::string& part : parts) EXPECT_TRUE(has(outcome.err, part)) << part << " in " << outcome.err;
    EXPECT_FALSE(std::filesystem::exists(out_));
    EXPECT_FALSE(std::filesystem::exists(out_ + ".partial"));
  }

  std::string model_ = path("model");
  std::string out_ = path("out");
};

TEST_F(CommandTest, QuantizeMakesACompleteOutput) {
  const Outcome outcome = quantize();

  ASSERT_EQ(outcome.code, kExitDone) << outcome.err;
  EXPECT_TRUE(has(outcome.out, "is complete")) << outcome.out;
  EXPECT_TRUE(has(outcome.out, "4 bit, group 64, als 5 starts of 4, columns weighted as measured")) << outcome.out;
  EXPECT_FALSE(std::filesystem::exists(out_ + ".partial"));
  EXPECT_EQ(get_file(out_ + "/tokenizer.json"), "{\"tokenizer\": true}");
  const auto config = boost::json::parse(get_file(out_ + "/config.json"));
  EXPECT_EQ(config.at("quantization_config").at("quant_method"), "hqq");
  const auto report = boost::json::parse(get_file(out_ + "/halfquad_report.json"));
  EXPECT_EQ(report.at("layers").as_array().size(), 14U);
  EXPECT_GT(report.at("totals").at("relative_error").as_double(), 0);
}

TEST_F(CommandTest, OutputDependsOnNeitherThreadsNorBackendNorMemory) {
  ASSERT_EQ(quantize().code, kExitDone);
  const std::string bytes = get_file(out_ + "/model.safetensors");

  const Outcome other = run({"quantize", model_, path("other"), "--threads", "1", "--backend", "reference", "--memory",
                             "1GiB", "--direct-io", "off", "--progress", "none"});

  ASSERT_EQ(other.code, kExitDone) << other.err;
  EXPECT_TRUE(bytes == get_file(path("other") + "/model.safetensors"));
}

TEST_F(CommandTest, VerifyAcceptsTheOutputAndFindsAFlippedBit) {
  ASSERT_EQ(quantize().code, kExitDone);

  const Outcome good = run({"verify", out_, "--source", model_, "--progress", "none"});
  ASSERT_EQ(good.code, kExitDone) << good.err << good.out;
  EXPECT_TRUE(has(good.out, "OK\n")) << good.out;
  EXPECT_TRUE(has(good.out, "worst layers")) << good.out;

  std::string bytes = get_file(out_ + "/model.safetensors");
  char& victim = bytes[bytes.size() / 2];
  victim = static_cast<char>(victim ^ 1);
  put_file(out_ + "/model.safetensors", bytes);
  const Outcome bad = run({"verify", out_, "--progress", "none", "--json"});
  expect_error_line(bad);
  EXPECT_EQ(bad.code, kExitMismatch);
  const auto found = boost::json::parse(bad.out);
  EXPECT_EQ(found.at("ok"), false);
  EXPECT_EQ(found.at("problems").as_array().size(), 1U);
}

TEST_F(CommandTest, VerifyMeasuresTheErrorsOfOutputs) {
  ASSERT_EQ(quantize().code, kExitDone);
  const auto verify = [&](std::vector<std::string> more) {
    more.insert(more.begin(), {"verify", out_, "--source", model_, "--progress", "none"});
    return run(more);
  };

  const Outcome text = verify({"--activations", "16"});
  ASSERT_EQ(text.code, kExitDone) << text.err << text.out;
  EXPECT_TRUE(has(text.out, "output error\n")) << text.out;
  EXPECT_TRUE(has(text.out, "output error for 16 random inputs (seed 0), by ")) << text.out;
  EXPECT_TRUE(has(text.out, ": mean 0.")) << text.out;
  EXPECT_TRUE(has(text.out, ", worst 0.")) << text.out;

  const auto json = [&](const std::string& seed) {
    return boost::json::parse(verify({"--activations", "16", "--activations-seed", seed, "--json"}).out);
  };
  const auto found = json("7");
  double sum = 0;
  for (const auto& layer : found.at("layers").as_array()) {
    // Independent inputs: the errors of outputs come close to the errors of weights.
    const double weights = layer.at("relative_error").as_double();
    EXPECT_NEAR(layer.at("output_error").as_double(), weights, 0.1 * weights);
    sum += layer.at("output_error").as_double();
  }
  const auto& all = found.at("output_error");
  EXPECT_EQ(all.at("layers"), 14);
  EXPECT_EQ(all.at("layers_without_inputs"), 0);
  EXPECT_NEAR(all.at("mean").as_double(), sum / 14, 1e-12);
  EXPECT_GE(all.at("worst").as_double(), all.at("mean").as_double());
  EXPECT_EQ(json("7").at("output_error"), all);
  EXPECT_NE(json("8").at("output_error"), all);
  EXPECT_FALSE(boost::json::parse(verify({"--json"}).out).as_object().contains("output_error"));
}

TEST_F(CommandTest, VerifyTakesInputsFromAFile) {
  ASSERT_EQ(quantize().code, kExitDone);
  const std::string file = path("inputs.safetensors");
  const std::string module = "model.layers.1.self_attn.q_proj";
  const auto verify = [&] {
    return run({"verify", out_, "--source", model_, "--activations", file, "--progress", "none"});
  };
  const auto shape = boost::json::parse(get_file(out_ + "/halfquad_report.json")).at("layers").as_array();
  const auto layer =
      std::find_if(shape.begin(), shape.end(), [&](const auto& l) { return l.at("module").as_string() == module; });
  ASSERT_NE(layer, shape.end());
  const std::int64_t cols = layer->at("shape").as_array()[1].as_int64();

  test::put_safetensors(
      file, {test::f32_tensor(module, {2, cols}, std::vector<float>(static_cast<std::size_t>(2 * cols), 1))});
  const Outcome good = verify();
  ASSERT_EQ(good.code, kExitDone) << good.err;
  EXPECT_TRUE(has(good.out, "in \"" + module + "\"\n")) << good.out;
  EXPECT_TRUE(has(good.out, "13 of 14 layers have no inputs there")) << good.out;
  const std::string figures = good.out.substr(good.out.find("mean ") + 5);
  EXPECT_TRUE(has(figures, ", worst " + figures.substr(0, 7) + " in ")) << figures;  // of one layer

  test::put_safetensors(file, {test::f32_tensor(module, {1, 3}, {1, 2, 3})});
  const Outcome bad = verify();
  expect_error_line(bad);
  EXPECT_EQ(bad.code, kExitBadInput) << bad.err;
  EXPECT_TRUE(has(bad.err, module) && has(bad.err, "F32 of shape [1, 3]")) << bad.err;
}

TEST_F(CommandTest, VerifyRefusesActivationsThatItCannotUse) {
  ASSERT_EQ(quantize().code, kExitDone);
  const auto refused = [&](std::vector<std::string> more, int code, const std::string& part) {
    more.insert(more.begin(), {"verify", out_, "--progress", "none"});
    const Outcome outcome = fail(more);
    EXPECT_EQ(outcome.code, code) << outcome.err;
    EXPECT_TRUE(has(outcome.err, part)) << outcome.err;
  };
  refused({"--activations", "16"}, kExitUsage, "--activations needs --source");
  refused({"--source", model_, "--activations-seed", "1"}, kExitUsage, "--activations-seed needs --activations");
  refused({"--source", model_, "--devices", "all"}, kExitUsage, "--devices needs --activations");
  refused({"--source", model_, "--activations", "4", "--devices", "x"}, kExitUsage, "--devices");
  refused({"--source", model_, "--activations", "0"}, kExitUsage, "\"0\" is not a number from 1 to");
  refused({"--source", model_, "--activations", "99999999999999999999"}, kExitUsage, "is not a number from 1 to");
  refused({"--source", model_, "--activations", path("none"), "--activations-seed", "1"}, kExitUsage, "not a file");
  refused({"--source", model_, "--activations", path("none")}, kExitIo, "none");
}

TEST_F(CommandTest, DequantizeMakesAPlainCheckpoint) {
  ASSERT_EQ(quantize().code, kExitDone);

  const Outcome back = run({"dequantize", out_, path("back"), "--dtype", "f32", "--progress", "none"});

  ASSERT_EQ(back.code, kExitDone) << back.err;
  EXPECT_TRUE(has(back.out, "14 layers as F32")) << back.out;
  const auto config = boost::json::parse(get_file(path("back") + "/config.json")).as_object();
  EXPECT_FALSE(config.contains("quantization_config"));
  EXPECT_FALSE(std::filesystem::exists(path("back") + "/halfquad_report.json"));
  EXPECT_TRUE(std::filesystem::exists(path("back") + "/tokenizer.json"));
  const Outcome listed = run({"inspect", path("back")});
  EXPECT_TRUE(has(listed.out, "\"model.layers.1.mlp.down_proj.weight\"")) << listed.out;
  EXPECT_EQ(run({"dequantize", out_, path("back")}).code, kExitUsage);
}

TEST_F(CommandTest, InspectListsTensorsAndLayers) {
  ASSERT_EQ(quantize({"--bits", "3"}).code, kExitDone);

  const Outcome text = run({"inspect", out_ + "/model.safetensors"});
  EXPECT_EQ(text.code, kExitDone) << text.err;
  EXPECT_TRUE(has(text.out, "\"model.layers.0.self_attn.q_proj.W_q\"")) << text.out;
  EXPECT_TRUE(has(text.out, "3 bit, group 64")) << text.out;
  EXPECT_TRUE(has(text.out, "metadata \"format\" = \"pt\"")) << text.out;
  const auto json = boost::json::parse(run({"inspect", out_, "--json"}).out);
  EXPECT_EQ(json.at("layers").as_array().size(), 14U);
  EXPECT_EQ(json.at("metadata").at("format"), "pt");
}

TEST_F(CommandTest, InspectEscapesNames) {
  test::put_safetensors(path("odd.safetensors"), {test::f32_tensor("a\\nb\\u001b[31m", {1}, {1})});

  const Outcome outcome = run({"inspect", path("odd.safetensors")});

  EXPECT_EQ(outcome.code, kExitDone) << outcome.err;
  EXPECT_FALSE(has(outcome.out, "\x1b")) << outcome.out;
  EXPECT_TRUE(has(outcome.out, "a\\nb")) << outcome.out;
}

TEST_F(CommandTest, PlanPredictsTheOutputAndWritesNothing) {
  const Outcome outcome = run({"plan", model_, "--json", "--read-rate", "1GB", "--write-rate", "1GB", "--solve-rate",
                               "100MB", "--log-level", "off"});
  ASSERT_EQ(outcome.code, kExitDone) << outcome.err;
  const auto plan = boost::json::parse(outcome.out);

  ASSERT_EQ(quantize().code, kExitDone);
  const auto totals = boost::json::parse(get_file(out_ + "/halfquad_report.json")).at("totals");
  EXPECT_EQ(plan.at("quantized_weights"), totals.at("quantized_weights"));
  EXPECT_EQ(plan.at("bits_per_weight"), totals.at("bits_per_weight"));
  EXPECT_GT(plan.at("prediction").at("seconds").as_double(), 0);
  EXPECT_LT(plan.at("output_bytes").to_number<std::uint64_t>(), totals.at("output_bytes").to_number<std::uint64_t>());
  const auto measured = boost::json::parse(run({"plan", model_, "--json", "--measure", "--log-level", "off"}).out);
  EXPECT_GT(measured.at("prediction").at("solve_seconds").as_double(), 0);
  EXPECT_GT(measured.at("prediction").at("read_seconds").as_double(), 0);
  const Outcome text = run({"plan", model_, "--log-level", "off"});
  EXPECT_TRUE(has(text.out, "memory")) << text.out;
  EXPECT_TRUE(has(text.out, "(assumed; --measure")) << text.out;
}

TEST_F(CommandTest, RefusalsNameTheReasonAndLeaveNothing) {
  expect_refused(kExitUsage, {"--rule", "no_such_layer=bits:3"}, {"no_such_layer"});
  expect_refused(kExitUsage, {"--rule", "mlp=bits:7"}, {"7"});
  expect_refused(kExitUsage, {"--skip", "no_such_layer"}, {"no_such_layer"});
  expect_refused(kExitUsage, {"--skip", "("}, {"("});
  expect_refused(kExitUsage, {"--skip", "."}, {});
  expect_refused(kExitUsage, {"--memory", "lots"}, {"--memory", "lots"});
  expect_refused(kExitOutOfMemory, {"--memory", "64KiB"}, {"64.0 KiB", "larger --memory", "--importance weights"});
  expect_refused(kExitOutOfMemory, {"--memory", "64KiB", "--importance", "weights"},
                 {"64.0 KiB", "--memory", "at least"});
  expect_refused(kExitUsage, {"--isa", "NO_SUCH"}, {"NO_SUCH"});
  expect_refused(kExitUsage, {"--scale-dtype", "f64"}, {"--scale-dtype"});
  expect_refused(kExitIo, {"--recipe", path("missing.json")}, {"missing.json"});
}

/// The wrapped file system, but with hardly any space left.
class FullDisk final : public FileSystem {
 public:
  explicit FullDisk(FileSystem& wrapped) : wrapped_(wrapped) {}
  std::unique_ptr<ReadFile> open_read(const Path& path, ReadMode mode) override {
    return wrapped_.open_read(path, mode);
  }
  std::unique_ptr<WriteFile> create(const Path& path, WriteMode mode) override { return wrapped_.create(path, mode); }
  std::unique_ptr<WriteFile> open_write(const Path& path, WriteMode mode) override {
    return wrapped_.open_write(path, mode);
  }
  FileKind kind(const Path& path) override { return wrapped_.kind(path); }
  Path canonical(const Path& path) override { return wrapped_.canonical(path); }
  std::vector<std::string> list(const Path& path) override { return wrapped_.list(path); }
  void create_directory(const Path& path) override { wrapped_.create_directory(path); }
  void rename(const Path& from, const Path& to) override { wrapped_.rename(from, to); }
  bool exchange(const Path& a, const Path& b) override { return wrapped_.exchange(a, b); }
  void remove_all(const Path& path) override { wrapped_.remove_all(path); }
  void sync_directory(const Path& path) override { wrapped_.sync_directory(path); }
  std::unique_ptr<FileLock> try_lock(const Path& path) override { return wrapped_.try_lock(path); }
  std::uint64_t free_bytes(const Path&) override { return 4096; }

 private:
  FileSystem& wrapped_;
};

TEST_F(CommandTest, TooLittleDiskIsKnownBeforeTheFirstWeight) {
  FullDisk full(*files_);

  const Outcome outcome = run_on(full, {"quantize", model_, out_, "--progress", "none"});

  expect_error_line(outcome);
  EXPECT_EQ(outcome.code, kExitIo);
  EXPECT_TRUE(has(outcome.err, "has 4.0 KiB free")) << outcome.err;
  EXPECT_FALSE(std::filesystem::exists(out_));
  EXPECT_FALSE(std::filesystem::exists(out_ + ".partial"));
}

TEST_F(CommandTest, BadModelsAreNamed) {
  model_ = path("no-such-model");
  expect_refused(kExitIo, {}, {"no-such-model"});
  put_file(path("broken.safetensors"), "nonsense that is no header");
  model_ = path("broken.safetensors");
  expect_refused(kExitBadInput, {}, {"broken.safetensors"});
}

TEST_F(CommandTest, AnExistingOutputIsReplacedOnlyOnRequest) {
  std::filesystem::create_directory(out_);
  put_file(out_ + "/precious", "data");
  put_file(out_ + "/config.json", "{}");  // an older model; anything else is never replaced

  const Outcome refused = quantize();
  expect_error_line(refused);
  EXPECT_EQ(refused.code, kExitUsage);
  EXPECT_TRUE(has(refused.err, "--overwrite")) << refused.err;
  EXPECT_EQ(get_file(out_ + "/precious"), "data");

  EXPECT_EQ(quantize({"--overwrite"}).code, kExitDone);
  EXPECT_FALSE(std::filesystem::exists(out_ + "/precious"));
  EXPECT_TRUE(std::filesystem::exists(out_ + "/model.safetensors"));
}

TEST_F(CommandTest, AnOutputInsideTheModelIsRefused) {
  out_ = model_ + "/out";
  expect_refused(kExitUsage, {}, {"out"});
}

TEST_F(CommandTest, AStopLeavesNoOutputAndSaysWhatToDo) {
  stop_.request();

  const Outcome outcome = quantize();

  expect_error_line(outcome);
  EXPECT_EQ(outcome.code, kExitInterrupted) << outcome.err;
  EXPECT_TRUE(has(outcome.err, "run the same command again")) << outcome.err;
  EXPECT_FALSE(std::filesystem::exists(out_));
}

/// A layer whose first weight is NaN beside a good one.
class NonfiniteTest : public CommandTest {
 protected:
  NonfiniteTest() {
    std::vector<float> bad(64 * 64, 0.5F);
    bad[0] = std::numeric_limits<float>::quiet_NaN();
    model_ = path("bad-model");
    std::filesystem::create_directory(model_);
    put_file(model_ + "/config.json", R"({"model_type": "llama"})");
    test::put_safetensors(
        model_ + "/model.safetensors",
        {test::f32_tensor("model.layers.0.mlp.down_proj.weight", {64, 64}, bad),
         test::f32_tensor("model.layers.0.mlp.up_proj.weight", {64, 64}, std::vector<float>(64 * 64, 0.25F))});
  }
};

TEST_F(NonfiniteTest, IsAnErrorThatNamesTheTensor) {
  expect_refused(kExitBadInput, {}, {"model.layers.0.mlp.down_proj.weight"});
}

TEST_F(NonfiniteTest, MayBecomeZero) {
  ASSERT_EQ(quantize({"--nonfinite", "zero"}).code, kExitDone);
  const auto report = boost::json::parse(get_file(out_ + "/halfquad_report.json"));
  EXPECT_EQ(report.at("totals").at("weights_zeroed").to_number<int>(), 1);
  EXPECT_EQ(run({"verify", out_, "--source", model_, "--progress", "none"}).code, kExitDone);
}

TEST_F(NonfiniteTest, MayKeepItsTensor) {
  ASSERT_EQ(quantize({"--nonfinite", "keep-original"}).code, kExitDone);
  const auto report = boost::json::parse(get_file(out_ + "/halfquad_report.json"));
  EXPECT_EQ(report.at("layers").as_array().size(), 1U);
  EXPECT_EQ(report.at("kept").as_array().at(0).at("name"), "model.layers.0.mlp.down_proj.weight");
  EXPECT_EQ(run({"verify", out_, "--source", model_, "--progress", "none"}).code, kExitDone);
}

TEST_F(CommandTest, BenchPrintsVersionedLines) {
  const std::vector<std::string> quick = {"--runs", "1", "--seconds", "0.001"};
  const auto bench = [&](std::vector<std::string> arguments) {
    arguments.insert(arguments.end(), quick.begin(), quick.end());
    return run(arguments);
  };

  const Outcome solve = bench({"bench", "solve", "--bits", "4,3", "--group-size", "64"});
  EXPECT_EQ(solve.code, kExitDone) << solve.err;
  EXPECT_TRUE(has(solve.out, "halfquad-bench-1, bench, solve, isa, ")) << solve.out;
  EXPECT_TRUE(has(solve.out, "bits, 3, group_size, 64")) << solve.out;
  const Outcome als = bench({"bench", "solve", "--solver", "als", "--bits", "4", "--group-size", "64"});
  EXPECT_EQ(als.code, kExitDone) << als.err;
  EXPECT_TRUE(has(als.out, "bits, 4, group_size, 64, solver, als, starts, 5, rounds, 4")) << als.out;
  EXPECT_TRUE(has(als.out, "ratio_to_hqq, ")) << als.out;
  EXPECT_TRUE(has(bench({"bench", "pack"}).out, "packing, 3bit_32, pack_gcodes_per_s, "));
  const Outcome io = bench({"bench", "io", "--dir", path("."), "--source", model_, "--write-bytes", "3MiB"});
  EXPECT_EQ(io.code, kExitDone) << io.err;
  EXPECT_TRUE(has(io.out, "what, both, reads, direct")) << io.out;
  EXPECT_TRUE(has(io.out, "bytes_written, 3145728")) << io.out;
  EXPECT_FALSE(std::filesystem::exists(path("halfquad-bench.tmp")));
  EXPECT_EQ(bench({"bench", "io"}).code, kExitUsage);
  EXPECT_EQ(bench({"bench", "solve", "--bits", "7"}).code, kExitUsage);
}

}  // namespace
}  // namespace halfquad
