#include <stdexcept>

#include "launcher/exit_code.h"
#include "tests/unit/launcher/cli_fixture.h"

namespace halfquad {
namespace {

using test::CliTest;
using test::Outcome;

bool has(const std::string& text, const std::string& part) { return text.find(part) != std::string::npos; }

TEST_F(CliTest, HelpNamesEveryCommandAndExitCode) {
  const Outcome help = run({"--help"});

  EXPECT_EQ(help.code, kExitDone);
  for (const char* part : {"quantize", "plan", "verify", "dequantize", "importance", "inspect", "report", "synth",
                           "bench", "75 interrupted"}) {
    EXPECT_TRUE(has(help.out, part)) << part;
  }
  EXPECT_EQ(help.err, "");
  EXPECT_EQ(run({}).out, help.out);
}

TEST_F(CliTest, HelpOfACommandIsTheSameBothWays) {
  const Outcome help = run({"help", "quantize"});

  EXPECT_EQ(help.code, kExitDone);
  for (const char* part :
       {"--bits", "--group-size", "(default: 4)", "--rule", "--nonfinite", "Which tensors", "Examples"}) {
    EXPECT_TRUE(has(help.out, part)) << part << " in " << help.out;
  }
  EXPECT_EQ(run({"quantize", "--help"}).out, help.out);
}

TEST_F(CliTest, HelpOfAnUnknownCommandIsAUsageError) {
  const Outcome outcome = fail({"help", "nonsense"});

  EXPECT_EQ(outcome.code, kExitUsage);
  EXPECT_TRUE(has(outcome.err, "nonsense")) << outcome.err;
}

TEST_F(CliTest, VersionNamesCompilerTargetsAndParts) {
  const Outcome version = run({"--version"});

  EXPECT_EQ(version.code, kExitDone);
  for (const char* part : {"halfquad 0.", "compiler", "SIMD targets", "MPI"}) {
    EXPECT_TRUE(has(version.out, part)) << part << " in " << version.out;
  }
}

TEST_F(CliTest, UsageErrorsAreOneLineWithAHint) {
  const std::vector<std::vector<std::string>> bad = {
      {"nonsense"},
      {"--nonsense"},
      {"quantize"},
      {"quantize", "a"},
      {"quantize", "a", "b", "c"},
      {"quantize", "a", "b", "--nonsense"},
      {"quantize", "a", "b", "--axis", "7"},
      {"quantize", "a", "b", "--iters", "many"},
      {"quantize", "a", "b", "--iters"},
      {"verify", "a", "--threads", "0"},
      {"bench", "nonsense"},
      {"plan", "a", "--progress", "loud"},
  };
  for (const auto& arguments : bad) {
    const Outcome outcome = fail(arguments);
    EXPECT_EQ(outcome.code, kExitUsage) << outcome.err;
    EXPECT_TRUE(has(outcome.err, "--help")) << outcome.err;
  }
  EXPECT_TRUE(has(fail({"quantize", "a", "b", "--nonsense"}).err, "see halfquad quantize --help"));
}

TEST_F(CliTest, ControlCharactersOfArgumentsDoNotReachTheTerminal) {
  const Outcome outcome = fail({"quantize", "a", "b", "--\x1b[31m\nred"});

  EXPECT_FALSE(has(outcome.err, "\x1b")) << outcome.err;
}

TEST_F(CliTest, StartByMpirunWithTwoRanksIsRefused) {
  environment_["OMPI_COMM_WORLD_SIZE"] = "2";

  const Outcome outcome = fail({"inspect", path("model")});

  EXPECT_EQ(outcome.code, kExitUsage);
  EXPECT_TRUE(has(outcome.err, "one machine")) << outcome.err;
  EXPECT_EQ(run({"--help"}).code, kExitDone);
}

TEST_F(CliTest, AFullStandardOutputIsAnError) {
  std::ostringstream out, err;
  out.setstate(std::ios::badbit);

  const int code = run_cli({"--help"}, Context{*files_, stop_, out, err, environment_});

  EXPECT_EQ(code, kExitIo);
  EXPECT_TRUE(has(err.str(), "standard output")) << err.str();
}

/// A file system that breaks in a way of the test's choosing.
template <class Exception>
class BrokenFileSystem final : public FileSystem {
 public:
  explicit BrokenFileSystem(Exception exception) : exception_(std::move(exception)) {}
  std::unique_ptr<ReadFile> open_read(const Path&, ReadMode) override { throw exception_; }
  std::unique_ptr<WriteFile> create(const Path&, WriteMode) override { throw exception_; }
  std::unique_ptr<WriteFile> open_write(const Path&, WriteMode) override { throw exception_; }
  FileKind kind(const Path&) override { throw exception_; }
  Path canonical(const Path&) override { throw exception_; }
  std::vector<std::string> list(const Path&) override { throw exception_; }
  void create_directory(const Path&) override { throw exception_; }
  void rename(const Path&, const Path&) override { throw exception_; }
  bool exchange(const Path&, const Path&) override { throw exception_; }
  void remove_all(const Path&) override { throw exception_; }
  void sync_directory(const Path&) override { throw exception_; }
  std::unique_ptr<FileLock> try_lock(const Path&) override { throw exception_; }
  std::uint64_t free_bytes(const Path&) override { throw exception_; }

 private:
  Exception exception_;
};

TEST_F(CliTest, EveryKindOfFailureHasItsCode) {
  BrokenFileSystem io(Error(ErrorCode::kIo, "the disk is gone"));
  BrokenFileSystem bug(Error(ErrorCode::kInternal, "impossible"));
  BrokenFileSystem memory{std::bad_alloc()};
  BrokenFileSystem unknown(std::logic_error("surprise"));
  BrokenFileSystem stranger(42);

  EXPECT_EQ(run_on(io, {"inspect", "x"}).code, kExitIo);
  EXPECT_EQ(run_on(io, {"inspect", "x"}).err, "halfquad: error: the disk is gone\n");
  EXPECT_EQ(run_on(memory, {"inspect", "x"}).code, kExitOutOfMemory);
  for (FileSystem* broken : std::vector<FileSystem*>{&bug, &unknown, &stranger}) {
    const Outcome outcome = run_on(*broken, {"inspect", "x"});
    EXPECT_EQ(outcome.code, kExitInternal);
    EXPECT_TRUE(has(outcome.err, "this is a bug")) << outcome.err;
    expect_error_line(outcome);
  }
}

}  // namespace
}  // namespace halfquad
