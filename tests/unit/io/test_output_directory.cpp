#include <algorithm>
#include <cstddef>
#include <filesystem>
#include <memory>
#include <string>
#include <string_view>
#include <vector>

#include <gtest/gtest.h>

#include "io/output_directory.h"
#include "io/posix_file_system.h"
#include "tests/support/expect_error.h"
#include "tests/support/faulty_file_system.h"
#include "tests/support/temp_dir.h"

namespace halfquad {
namespace {

using test::expect_error;
using test::FaultPlan;
using test::FaultyFileSystem;
using test::get_file;
using test::put_file;

class OutputDirectoryTest : public ::testing::Test {
 protected:
  void SetUp() override {
    std::filesystem::create_directory(source_);
    put_file(source_ / "config.json", "{}");
  }
  [[nodiscard]] std::filesystem::path at(const std::string& name) const { return dir_.path() / name; }
  void make_model(const std::string& name, const std::string& content) const {
    std::filesystem::create_directory(at(name));
    put_file(at(name) / "config.json", content);
  }
  /// Writes config.json with `content` into a new output and commits it.
  void write_output(FileSystem& fs, const std::string& content, Overwrite overwrite) {
    OutputDirectory output(fs, at("out"), source_, overwrite);
    write_text(fs, output.path_of("config.json"), content);
    output.commit();
  }
  void expect_refusal(const std::filesystem::path& out, std::string_view reason, Overwrite overwrite = Overwrite::kNo,
                      ErrorCode code = ErrorCode::kUsage) {
    expect_error(code, {reason}, [&] { const OutputDirectory output(*fs_, out, source_, overwrite); });
  }
  [[nodiscard]] std::vector<std::string> names() { return fs_->list(dir_.path()); }

  test::TempDir dir_;
  std::filesystem::path source_ = dir_.path() / "source";
  std::unique_ptr<FileSystem> fs_ = make_posix_file_system();
};

using Names = std::vector<std::string>;

TEST_F(OutputDirectoryTest, NothingBearsTheFinalNameBeforeCommit) {
  OutputDirectory output(*fs_, at("out"), source_, Overwrite::kNo);
  write_text(*fs_, output.path_of("f"), "1");

  EXPECT_EQ(names(), (Names{"out.partial", "out.partial.lock", "source"}));
  output.commit();
  EXPECT_EQ(names(), (Names{"out", "source"}));
  EXPECT_EQ(get_file(at("out") / "f"), "1");
}

TEST_F(OutputDirectoryTest, AbandonedWorkStaysAndTheNextRunDiscardsIt) {
  {
    const OutputDirectory output(*fs_, at("out"), source_, Overwrite::kNo);
    put_file(output.path_of("stale"), "1");
  }
  EXPECT_EQ(fs_->kind(at("out.partial") / "stale"), FileKind::kFile);

  const OutputDirectory again(*fs_, at("out"), source_, Overwrite::kNo);

  EXPECT_TRUE(fs_->list(at("out.partial")).empty());
}

TEST_F(OutputDirectoryTest, DiscardLeavesNothing) {
  OutputDirectory output(*fs_, at("out"), source_, Overwrite::kNo);
  put_file(output.path_of("f"), "1");

  output.discard();

  EXPECT_EQ(names(), Names{"source"});
}

TEST_F(OutputDirectoryTest, ASecondWriterIsRefusedWhileTheFirstLives) {
  auto first = std::make_unique<OutputDirectory>(*fs_, at("out"), source_, Overwrite::kNo);

  expect_refusal(at("out"), "another process is writing");
  EXPECT_EQ(fs_->kind(at("out.partial")), FileKind::kDirectory);
  first.reset();
  EXPECT_NO_THROW(OutputDirectory(*fs_, at("out"), source_, Overwrite::kNo).discard());
}

TEST_F(OutputDirectoryTest, TrailingSlashNamesTheSameDirectory) {
  OutputDirectory output(*fs_, at("out") / "", source_, Overwrite::kNo);

  output.commit();

  EXPECT_EQ(names(), (Names{"out", "source"}));
}

TEST_F(OutputDirectoryTest, ExistingOutputIsRefusedWithoutOverwrite) {
  make_model("out", "old");

  expect_refusal(at("out"), "exists; choose another name or pass --overwrite");
  EXPECT_EQ(names(), (Names{"out", "source"}));
}

TEST_F(OutputDirectoryTest, OverwriteReplacesAModelOnCommit) {
  make_model("out", "old");
  {
    OutputDirectory output(*fs_, at("out"), source_, Overwrite::kYes);
    write_text(*fs_, output.path_of("config.json"), "new");
    EXPECT_EQ(get_file(at("out") / "config.json"), "old");
    output.commit();
  }

  EXPECT_EQ(names(), (Names{"out", "source"}));
  EXPECT_EQ(get_file(at("out") / "config.json"), "new");
}

TEST_F(OutputDirectoryTest, OverwriteReplacesWithoutExchangeToo) {
  make_model("out", "old");
  FaultyFileSystem fs(*fs_, std::make_shared<FaultPlan>());
  fs.refuse_exchange();

  write_output(fs, "new", Overwrite::kYes);

  EXPECT_EQ(names(), (Names{"out", "source"}));
  EXPECT_EQ(get_file(at("out") / "config.json"), "new");
}

TEST_F(OutputDirectoryTest, OverwriteOfAnEmptyDirectoryIsAllowed) {
  std::filesystem::create_directory(at("out"));

  EXPECT_NO_THROW(write_output(*fs_, "new", Overwrite::kYes));
}

TEST_F(OutputDirectoryTest, OverwriteNeverReplacesSomebodysOtherDirectory) {
  std::filesystem::create_directory(at("out"));
  put_file(at("out") / "thesis.tex", "years of work");

  expect_refusal(at("out"), "holds other things than a model", Overwrite::kYes);
  EXPECT_EQ(get_file(at("out") / "thesis.tex"), "years of work");
}

TEST_F(OutputDirectoryTest, AFileInTheWayIsRefusedEvenWithOverwrite) {
  put_file(at("out"), "x");

  expect_refusal(at("out"), "exists and is not a directory", Overwrite::kYes);
}

TEST_F(OutputDirectoryTest, ALinkInTheWayIsRefusedEvenWithOverwrite) {
  make_model("real", "old");
  std::filesystem::create_symlink("real", at("out"));
  std::filesystem::create_symlink("nothing", at("dangling"));

  expect_refusal(at("out"), "is a symbolic link; give the directory it stands for", Overwrite::kYes);
  expect_refusal(at("dangling"), "is a symbolic link to nothing", Overwrite::kYes);
  EXPECT_EQ(get_file(at("real") / "config.json"), "old");
}

TEST_F(OutputDirectoryTest, TheSourceIsNeverTheOutput) {
  std::filesystem::create_symlink("source", at("link"));

  expect_refusal(source_, "is the source itself", Overwrite::kYes);
  expect_refusal(at("link"), "is the source itself", Overwrite::kYes);
  expect_refusal(source_ / "out", "lies inside the source");
  expect_refusal(at("link") / "out", "lies inside the source");
  EXPECT_EQ(names(), (Names{"link", "source"}));
}

TEST_F(OutputDirectoryTest, AnOutputAroundTheSourceIsRefused) {
  expect_refusal(dir_.path(), "contains the source", Overwrite::kYes);
  EXPECT_EQ(get_file(source_ / "config.json"), "{}");
}

TEST_F(OutputDirectoryTest, ASourceThatBearsTheNameOfTheWorkIsNotDiscarded) {
  make_model("out.partial", "precious");
  make_model("two.replaced", "precious");

  expect_error(ErrorCode::kUsage, {"out.partial\" is the source itself"},
               [&] { const OutputDirectory output(*fs_, at("out"), at("out.partial"), Overwrite::kNo); });
  expect_error(ErrorCode::kUsage, {"two.replaced\" is the source itself"},
               [&] { const OutputDirectory output(*fs_, at("two"), at("two.replaced"), Overwrite::kNo); });
  EXPECT_EQ(get_file(at("out.partial") / "config.json"), "precious");
}

TEST_F(OutputDirectoryTest, ASingleFileAsSourceMayHaveTheOutputBesideIt) {
  put_file(at("m.safetensors"), "");

  OutputDirectory output(*fs_, at("out"), at("m.safetensors"), Overwrite::kNo);

  EXPECT_NO_THROW(output.commit());
}

TEST_F(OutputDirectoryTest, NamesThatAreNoNewDirectoryAreRefused) {
  for (const char* name : {".", "..", "/", "", "x/.."}) expect_refusal(name, "does not name a directory");
}

TEST_F(OutputDirectoryTest, AMissingParentIsToBeCreatedFirst) {
  expect_refusal(at("no") / "out", "no\" that is to hold the output does not exist; create it first", Overwrite::kNo,
                 ErrorCode::kIo);
}

TEST_F(OutputDirectoryTest, ARunThatDiedBetweenTwoRenamesIsUndoneByTheNext) {
  make_model("out.replaced", "old");
  make_model("out.partial", "new");

  expect_refusal(at("out"), "exists; choose another name");

  EXPECT_EQ(get_file(at("out") / "config.json"), "old");
}

TEST_F(OutputDirectoryTest, AForeignDirectoryWithTheNameOfTheReplacedIsLeftAlone) {
  make_model("out.replaced", "mine");

  write_output(*fs_, "new", Overwrite::kNo);

  EXPECT_EQ(get_file(at("out.replaced") / "config.json"), "mine");
}

class ResumeTest : public OutputDirectoryTest {
 protected:
  /// A run that died having written "data" and its job description.
  void leave_unfinished(const std::string& data) {
    OutputDirectory output(*fs_, at("out"), source_, Overwrite::kYes);
    put_file(output.make_private_folder() / kJobDescription, "job");
    put_file(output.path_of("data"), data);
  }
  [[nodiscard]] std::unique_ptr<OutputDirectory> open(Leftover leftover, Overwrite overwrite = Overwrite::kNo) {
    return std::make_unique<OutputDirectory>(*fs_, at("out"), source_, overwrite, leftover);
  }
};

TEST_F(ResumeTest, UnfinishedWorkIsKeptWhenAskedFor) {
  leave_unfinished("half");

  const auto output = open(Leftover::kKeep);

  EXPECT_TRUE(output->resumed());
  EXPECT_EQ(get_file(output->path_of("data")), "half");
  EXPECT_EQ(get_file(output->make_private_folder() / kJobDescription), "job");
}

TEST_F(ResumeTest, UnfinishedWorkIsDiscardedOtherwise) {
  leave_unfinished("half");

  const auto output = open(Leftover::kDiscard);

  EXPECT_FALSE(output->resumed());
  EXPECT_TRUE(fs_->list(at("out.partial")).empty());
}

TEST_F(ResumeTest, ANewOutputIsNotResumed) {
  const auto output = open(Leftover::kKeep);

  EXPECT_FALSE(output->resumed());
  EXPECT_EQ(fs_->kind(at("out.partial")), FileKind::kDirectory);
}

TEST_F(ResumeTest, WorkWithoutAJobDescriptionIsNothingToContinue) {
  leave_unfinished("half");
  std::filesystem::remove(at("out.partial") / kPrivateFolder / kJobDescription);

  const auto output = open(Leftover::kKeep);

  EXPECT_FALSE(output->resumed());
  EXPECT_TRUE(fs_->list(at("out.partial")).empty());
}

TEST_F(ResumeTest, ALinkToUnfinishedWorkElsewhereIsNotFollowed) {
  leave_unfinished("half");
  std::filesystem::rename(at("out.partial"), at("elsewhere"));
  std::filesystem::create_symlink("elsewhere", at("out.partial"));

  const auto output = open(Leftover::kKeep);

  EXPECT_FALSE(output->resumed());
  EXPECT_EQ(get_file(at("elsewhere") / "data"), "half");
  EXPECT_EQ(get_file(at("elsewhere") / kPrivateFolder / kJobDescription), "job");
}

TEST_F(ResumeTest, TheFinishedOutputLacksThePrivateFolder) {
  leave_unfinished("whole");

  open(Leftover::kKeep)->commit();

  EXPECT_EQ(fs_->list(at("out")), Names{"data"});
  EXPECT_EQ(names(), (Names{"out", "source"}));
}

TEST_F(ResumeTest, WhatACommitLeftBehindIsRemovedEvenFromAnOutputThatIsRefused) {
  make_model("out", "new");
  std::filesystem::create_directory(at("out") / kPrivateFolder);
  put_file(at("out") / kPrivateFolder / kJobDescription, "job");
  make_model("out.partial", "old");  // as the exchange leaves it

  expect_refusal(at("out"), "exists; choose another name");

  EXPECT_EQ(fs_->list(at("out")), Names{"config.json"});
  EXPECT_EQ(get_file(at("out") / "config.json"), "new");
  EXPECT_EQ(names(), (Names{"out", "source"}));
}

TEST_F(ResumeTest, ALinkInTheWayKeepsItsPrivateFolder) {
  make_model("real", "old");
  std::filesystem::create_directory(at("real") / kPrivateFolder);
  std::filesystem::create_symlink("real", at("out"));

  expect_refusal(at("out"), "is a symbolic link; give the directory it stands for", Overwrite::kYes);

  EXPECT_EQ(fs_->kind(at("real") / kPrivateFolder), FileKind::kDirectory);
}

TEST_F(ResumeTest, ThePrivateFolderIsDurable) {
  const auto plan = std::make_shared<FaultPlan>();
  FaultyFileSystem fs(*fs_, plan);
  OutputDirectory output(fs, at("out"), source_, Overwrite::kNo, Leftover::kKeep);
  const std::size_t before = plan->log().size();

  const std::filesystem::path folder = output.make_private_folder();

  const std::vector<std::string> log = plan->log();
  EXPECT_EQ(Names(log.begin() + static_cast<std::ptrdiff_t>(before), log.end()),
            (Names{"create_directory " + folder.string(), "sync_directory " + at("out.partial").string(),
                   "sync_directory " + dir_.path().string()}));
}

TEST_F(ResumeTest, OtherRanksKnowWhereToWrite) {
  const auto output = open(Leftover::kKeep);

  EXPECT_EQ(partial_path(at("out")) / "data", output->path_of("data"));
  EXPECT_EQ(partial_path(at("out") / ""), at("out.partial"));
}

TEST_F(ResumeTest, DiscardingRemovesTheJobDescriptionFirst) {
  leave_unfinished("half");
  const auto plan = std::make_shared<FaultPlan>();
  FaultyFileSystem fs(*fs_, plan);

  OutputDirectory(fs, at("out"), source_, Overwrite::kNo, Leftover::kKeep).discard();

  const std::vector<std::string> log = plan->log();
  const auto removal = [&](const std::filesystem::path& path) {
    return std::find(log.begin(), log.end(), "remove_all " + path.string());
  };
  ASSERT_NE(removal(at("out.partial")), log.end());
  EXPECT_LT(removal(at("out.partial") / kPrivateFolder / kJobDescription), removal(at("out.partial")));
  EXPECT_EQ(names(), Names{"source"});
}

/// Dies at every call of a commit in turn; whatever the moment, either the rerun continues or OUT is the new output.
void die_committing(FileSystem& posix, bool can_exchange, bool replaces) {
  for (std::uint64_t k = 1;; ++k) {
    const test::TempDir dir;
    const std::filesystem::path out = dir.path() / "out";
    if (replaces) {
      std::filesystem::create_directory(out);
      put_file(out / "config.json", "old");
    }
    const Overwrite overwrite = replaces ? Overwrite::kYes : Overwrite::kNo;
    {
      OutputDirectory output(posix, out, {}, overwrite);
      put_file(output.make_private_folder() / kJobDescription, "job");
      put_file(output.path_of("config.json"), "new");
    }
    const auto plan = std::make_shared<FaultPlan>(k, test::After::kDead);
    FaultyFileSystem fs(posix, plan);
    if (!can_exchange) fs.refuse_exchange();

    try {
      OutputDirectory(fs, out, {}, overwrite, Leftover::kKeep).commit();
    } catch (const Error& error) {
      ASSERT_NE(std::string(error.what()).find("injected"), std::string::npos) << error.what();
    }
    try {
      OutputDirectory rerun(posix, out, {}, Overwrite::kNo, Leftover::kKeep);
      ASSERT_TRUE(rerun.resumed()) << plan->failed_call();
      rerun.commit();
    } catch (const Error& error) {
      ASSERT_NE(std::string(error.what()).find("exists"), std::string::npos) << error.what();
    }
    if (get_file(out / "config.json") == "old") {  // refused for that; with --overwrite it goes on
      OutputDirectory rerun(posix, out, {}, overwrite, Leftover::kKeep);
      ASSERT_TRUE(rerun.resumed()) << plan->failed_call();
      rerun.commit();
    }
    ASSERT_EQ(get_file(out / "config.json"), "new") << plan->failed_call();
    ASSERT_EQ(posix.list(out), Names{"config.json"}) << plan->failed_call();
    if (!plan->fired()) break;
    ASSERT_LT(k, 200U);
  }
}

TEST_F(ResumeTest, DyingWhileCommittingLosesNoWork) { die_committing(*fs_, true, false); }

TEST_F(ResumeTest, DyingWhileReplacingLosesNoWork) { die_committing(*fs_, true, true); }

TEST_F(ResumeTest, DyingWhileReplacingWithoutExchangeLosesNoWork) { die_committing(*fs_, false, true); }

/// Dies at every call in turn; whatever the moment, OUT is the old or the new model, and a rerun completes.
void die_everywhere(FileSystem& posix, bool can_exchange) {
  for (std::uint64_t k = 1;; ++k) {
    const test::TempDir dir;
    const std::filesystem::path out = dir.path() / "out";
    std::filesystem::create_directory(out);
    put_file(out / "config.json", "old");
    const auto plan = std::make_shared<FaultPlan>(k, test::After::kDead);
    FaultyFileSystem fs(posix, plan);
    if (!can_exchange) fs.refuse_exchange();
    const auto run = [&](FileSystem& with) {
      OutputDirectory output(with, out, {}, Overwrite::kYes);
      write_text(with, output.path_of("config.json"), "new");
      output.commit();
    };

    try {
      run(fs);
    } catch (const Error& error) {
      ASSERT_NE(std::string(error.what()).find("injected"), std::string::npos) << error.what();
    }
    if (posix.kind(out) == FileKind::kDirectory) {
      const std::string content = get_file(out / "config.json");
      ASSERT_TRUE(content == "old" || content == "new") << content;
    } else {
      ASSERT_FALSE(can_exchange) << plan->failed_call();
      ASSERT_EQ(get_file(dir.path() / "out.replaced" / "config.json"), "old") << plan->failed_call();
    }
    run(posix);
    ASSERT_EQ(get_file(out / "config.json"), "new") << plan->failed_call();
    ASSERT_EQ(posix.list(dir.path()), Names{"out"}) << plan->failed_call();
    if (!plan->fired()) break;
    ASSERT_LT(k, 200U);
  }
}

TEST_F(OutputDirectoryTest, DyingAnywhereNeverLosesTheOldModel) { die_everywhere(*fs_, true); }

TEST_F(OutputDirectoryTest, DyingAnywhereWithoutExchangeNeverLosesTheOldModel) { die_everywhere(*fs_, false); }

}  // namespace
}  // namespace halfquad
