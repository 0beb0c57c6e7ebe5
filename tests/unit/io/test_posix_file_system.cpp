#include <csignal>
#include <cstddef>
#include <filesystem>
#include <memory>
#include <string>
#include <sys/resource.h>
#include <thread>
#include <vector>

#include <gtest/gtest.h>

#include "io/aligned_scratch.h"
#include "io/posix_file_system.h"
#include "tests/support/expect_error.h"
#include "tests/support/temp_dir.h"

namespace halfquad {
namespace {

using test::expect_error;
using test::get_file;
using test::put_file;

std::string pattern(std::size_t bytes) {
  std::string text(bytes, '\0');
  for (std::size_t i = 0; i < bytes; ++i) text[i] = static_cast<char>((i * 131 + i / 4096 * 7) & 0xFFU);
  return text;
}

std::string read_range(ReadFile& file, std::uint64_t offset, std::size_t bytes) {
  const AlignedScratch scratch(bytes);
  const std::span<std::byte> data = file.read(offset, bytes, scratch.bytes().first(bytes + ReadFile::kSlack));
  return {reinterpret_cast<const char*>(data.data()), data.size()};
}

std::span<const std::byte> as_bytes(const std::string& text) { return std::as_bytes(std::span(text)); }

class PosixFileSystem : public ::testing::Test {
 protected:
  [[nodiscard]] std::filesystem::path at(const std::string& name) const { return dir_.path() / name; }

  test::TempDir dir_;
  std::unique_ptr<FileSystem> fs_ = make_posix_file_system();
};

TEST_F(PosixFileSystem, EveryModeReadsTheSameBytesAtOddOffsets) {
  const std::string bytes = pattern(3 * 4096 + 1234);
  put_file(at("f"), bytes);

  for (const ReadMode mode : {ReadMode::kAuto, ReadMode::kBuffered, ReadMode::kDirect}) {
    const auto file = fs_->open_read(at("f"), mode);
    ASSERT_EQ(file->size(), bytes.size());
    for (const std::size_t offset :
         std::vector<std::size_t>{0, 1, 511, 4095, 4096, 4097, 8191, 12287, 12288, 13000, 13521}) {
      for (const std::size_t length : std::vector<std::size_t>{0, 1, 7, 4096, 4097, 9000}) {
        if (offset + length > bytes.size()) continue;
        ASSERT_EQ(read_range(*file, offset, length), bytes.substr(offset, length)) << offset << "+" << length;
      }
    }
    EXPECT_EQ(read_range(*file, 4097, bytes.size() - 4097), bytes.substr(4097));
  }
}

TEST_F(PosixFileSystem, ReadsLongerThanOneTransferAreWhole) {
  const std::string bytes = pattern((std::size_t{33} << 20) + 77);
  put_file(at("f"), bytes);

  for (const ReadMode mode : {ReadMode::kBuffered, ReadMode::kDirect}) {
    const auto file = fs_->open_read(at("f"), mode);
    EXPECT_TRUE(read_range(*file, 3, bytes.size() - 3) == bytes.substr(3));
  }
}

TEST_F(PosixFileSystem, AutoReadsALargeFileRightWhetherCachedOrNot) {
  const std::string bytes = pattern(std::size_t{65} << 20);
  put_file(at("f"), bytes);

  const auto file = fs_->open_read(at("f"), ReadMode::kAuto);

  EXPECT_EQ(read_range(*file, bytes.size() - 5001, 5001), bytes.substr(bytes.size() - 5001));
}

TEST_F(PosixFileSystem, ManyThreadsReadOneFile) {
  const std::string bytes = pattern(1 << 20);
  put_file(at("f"), bytes);
  const auto file = fs_->open_read(at("f"), ReadMode::kDirect);

  std::vector<int> wrong(4);
  std::vector<std::thread> threads;
  for (std::size_t t = 0; t < wrong.size(); ++t) {
    threads.emplace_back([&, t] {
      for (std::size_t i = t; i + 5000 < bytes.size(); i += 40001) {
        if (read_range(*file, i, 5000) != bytes.substr(i, 5000)) ++wrong[t];
      }
    });
  }
  for (std::thread& thread : threads) thread.join();

  EXPECT_EQ(wrong, std::vector<int>(4, 0));
}

TEST_F(PosixFileSystem, ReadPastTheEndNamesFileOffsetAndWhatIsMissing) {
  put_file(at("short"), pattern(100));
  const auto file = fs_->open_read(at("short"), ReadMode::kBuffered);

  expect_error(ErrorCode::kIo, {"short\" is 50 bytes short at offset 50", "cut while being read"},
               [&] { static_cast<void>(read_range(*file, 50, 100)); });
  expect_error(ErrorCode::kIo, {"is 1 bytes short at offset 18446744073709551615"},
               [&] { static_cast<void>(read_range(*file, ~std::uint64_t{0}, 1)); });
}

TEST_F(PosixFileSystem, FileCutAfterOpeningIsReportedInEveryMode) {
  for (const ReadMode mode : {ReadMode::kBuffered, ReadMode::kDirect}) {
    put_file(at("cut"), pattern(20000));
    const auto file = fs_->open_read(at("cut"), mode);
    std::filesystem::resize_file(at("cut"), 9000);

    expect_error(ErrorCode::kIo, {"cut\" is 11000 bytes short at offset 9000"},
                 [&] { static_cast<void>(read_range(*file, 5000, 15000)); });
  }
}

TEST_F(PosixFileSystem, ScratchOutsideTheContractIsAnInternalError) {
  put_file(at("f"), pattern(100));
  const auto file = fs_->open_read(at("f"), ReadMode::kBuffered);
  const AlignedScratch scratch(100);

  expect_error(ErrorCode::kInternal, {"too small"},
               [&] { static_cast<void>(file->read(0, 100, scratch.bytes().first(ReadFile::kSlack))); });
  expect_error(ErrorCode::kInternal, {"not aligned"},
               [&] { static_cast<void>(file->read(0, 1, scratch.bytes().subspan(1))); });
}

TEST_F(PosixFileSystem, OpeningNamesPathAndReason) {
  expect_error(ErrorCode::kIo, {"cannot open ", "missing\": No such file"},
               [&] { static_cast<void>(fs_->open_read(at("missing"), ReadMode::kAuto)); });
  expect_error(ErrorCode::kIo, {"is not a regular file"},
               [&] { static_cast<void>(fs_->open_read(dir_.path(), ReadMode::kAuto)); });
  expect_error(ErrorCode::kIo, {"cannot create ", "no\\x1b/f\": No such file"},
               [&] { static_cast<void>(fs_->create(at("no\x1b") / "f", WriteMode::kBuffered)); });
}

TEST_F(PosixFileSystem, WritesAtOffsetsIntoAnAllocatedFile) {
  const auto file = fs_->create(at("out"), WriteMode::kBuffered);
  file->allocate(20);
  file->write(15, as_bytes("abc"));
  file->write(0, as_bytes("xy"));
  file->start_writeback(0, 2);
  file->sync();
  file->close();
  file->close();

  EXPECT_EQ(get_file(at("out")), std::string("xy") + std::string(13, '\0') + "abc" + std::string(2, '\0'));
}

// The middle of a large piece goes past the page cache, its ends through it; neighbours share the pages at the seams.
TEST_F(PosixFileSystem, DirectWritesGiveTheBytesOfBufferedOnesAtAnyOffset) {
  constexpr std::size_t kPiece = 2'600'000;
  constexpr std::size_t kStart = 1234;
  const AlignedScratch scratch(2 * kPiece);
  std::string expected(kStart, '\0');
  const auto file = fs_->create(at("direct"), WriteMode::kDirect);
  file->allocate(kStart + 3 * kPiece);

  for (std::size_t i = 0; i < 3; ++i) {
    const std::size_t offset = kStart + i * kPiece;
    const std::size_t misaligned = i == 1 ? 1 : 0;  // the second piece has to be copied for that
    const auto piece = scratch.bytes().subspan((offset + misaligned) % 4096, kPiece);
    for (std::size_t k = 0; k < kPiece; ++k) piece[k] = static_cast<std::byte>((k * 31 + i) % 251);
    file->write(offset, piece);
    expected.append(reinterpret_cast<const char*>(piece.data()), kPiece);
  }
  file->sync();
  file->close();

  EXPECT_TRUE(get_file(at("direct")) == expected);
}

TEST_F(PosixFileSystem, CreateTruncates) {
  put_file(at("out"), "old content");
  write_text(*fs_, at("out"), "new");

  EXPECT_EQ(get_file(at("out")), "new");
}

TEST_F(PosixFileSystem, OpenWriteKeepsWhatTheFileHolds) {
  for (const WriteMode mode : {WriteMode::kBuffered, WriteMode::kDirect}) {
    put_file(at("kept"), "0123456789");
    const auto file = fs_->open_write(at("kept"), mode);

    file->write(3, as_bytes("abc"));
    file->close();

    EXPECT_EQ(get_file(at("kept")), "012abc6789");
  }
  expect_error(ErrorCode::kIo, {"cannot open for writing", "missing\": No such file"},
               [&] { static_cast<void>(fs_->open_write(at("missing"), WriteMode::kBuffered)); });
  EXPECT_EQ(fs_->kind(at("missing")), FileKind::kMissing);
}

TEST_F(PosixFileSystem, AFileTooLargeForTheSystemIsReportedWithItsSize) {
  const auto file = fs_->create(at("huge"), WriteMode::kBuffered);

  expect_error(ErrorCode::kIo, {"cannot reserve", "9223372036854775807 bytes", "huge\""},
               [&] { file->allocate(std::uint64_t{9223372036854775807U}); });
}

TEST_F(PosixFileSystem, AWriteTheSystemRefusesNamesFileAndOffset) {
  rlimit old{};
  ASSERT_EQ(::getrlimit(RLIMIT_FSIZE, &old), 0);
  const auto handler = std::signal(SIGXFSZ, SIG_IGN);
  const auto file = fs_->create(at("limited"), WriteMode::kBuffered);
  const rlimit low{100, old.rlim_max};
  ASSERT_EQ(::setrlimit(RLIMIT_FSIZE, &low), 0);

  expect_error(ErrorCode::kIo, {"cannot write 20 bytes to ", "limited\" at offset 100: "},
               [&] { file->write(90, as_bytes(pattern(30))); });

  ::setrlimit(RLIMIT_FSIZE, &old);
  std::signal(SIGXFSZ, handler);
}

TEST_F(PosixFileSystem, AFullDeviceSaysWhatToDo) {
  if (fs_->kind("/dev/full") != FileKind::kOther) GTEST_SKIP() << "this system has no /dev/full";
  const auto file = fs_->create("/dev/full", WriteMode::kBuffered);

  expect_error(ErrorCode::kIo, {"\"/dev/full\" at offset 0: No space left", "free space", "run the same command again"},
               [&] { file->write(0, as_bytes("x")); });
}

TEST_F(PosixFileSystem, KindFollowsLinks) {
  put_file(at("file"), "x");
  std::filesystem::create_symlink("file", at("link"));
  std::filesystem::create_symlink("nothing", at("dangling"));

  EXPECT_EQ(fs_->kind(at("file")), FileKind::kFile);
  EXPECT_EQ(fs_->kind(at("link")), FileKind::kFile);
  EXPECT_EQ(fs_->kind(at("dangling")), FileKind::kMissing);
  EXPECT_EQ(fs_->kind(at("file") / "below"), FileKind::kMissing);
  EXPECT_EQ(fs_->kind(dir_.path()), FileKind::kDirectory);
  EXPECT_EQ(fs_->kind("/dev/null"), FileKind::kOther);
}

TEST_F(PosixFileSystem, LinkLoopsAreNamed) {
  std::filesystem::create_symlink("b", at("a"));
  std::filesystem::create_symlink("a", at("b"));

  expect_error(ErrorCode::kIo, {"/a\"", "symbolic links form a loop"}, [&] { static_cast<void>(fs_->kind(at("a"))); });
  expect_error(ErrorCode::kIo, {"/b\"", "symbolic links form a loop"},
               [&] { static_cast<void>(fs_->canonical(at("b"))); });
}

TEST_F(PosixFileSystem, CanonicalResolvesLinksAndRefusesWhatIsMissing) {
  std::filesystem::create_directory(at("real"));
  std::filesystem::create_symlink("real", at("link"));

  EXPECT_EQ(fs_->canonical(at("link") / ".." / "link"), at("real"));
  expect_error(ErrorCode::kIo, {"missing\"", "No such file"},
               [&] { static_cast<void>(fs_->canonical(at("missing"))); });
}

TEST_F(PosixFileSystem, ListIsSorted) {
  for (const char* name : {"b", "a", ".c"}) put_file(at(name), "");

  EXPECT_EQ(fs_->list(dir_.path()), (std::vector<std::string>{".c", "a", "b"}));
  expect_error(ErrorCode::kIo, {"cannot list the directory", "none\""},
               [&] { static_cast<void>(fs_->list(at("none"))); });
}

TEST_F(PosixFileSystem, CreateDirectoryAcceptsAnExistingOneOnly) {
  put_file(at("file"), "");

  fs_->create_directory(at("d"));
  EXPECT_NO_THROW(fs_->create_directory(at("d")));
  expect_error(ErrorCode::kIo, {"cannot create the directory", "file\": File exists"},
               [&] { fs_->create_directory(at("file")); });
}

TEST_F(PosixFileSystem, RemoveAllRemovesLinksAndNotTheirTargets) {
  std::filesystem::create_directories(at("tree") / "sub");
  std::filesystem::create_directory(at("kept"));
  put_file(at("kept") / "f", "x");
  std::filesystem::create_directory_symlink(at("kept"), at("tree") / "sub" / "link");
  std::filesystem::create_directory_symlink(at("kept"), at("link"));

  fs_->remove_all(at("tree"));
  fs_->remove_all(at("link"));
  fs_->remove_all(at("never was"));

  EXPECT_EQ(fs_->list(dir_.path()), std::vector<std::string>{"kept"});
  EXPECT_EQ(get_file(at("kept") / "f"), "x");
}

TEST_F(PosixFileSystem, RenameAndExchangeMoveNames) {
  put_file(at("a"), "1");
  std::filesystem::create_directory(at("d"));

  fs_->rename(at("a"), at("b"));
  if (!fs_->exchange(at("b"), at("d"))) GTEST_SKIP() << "this file system cannot exchange names";

  EXPECT_EQ(get_file(at("d")), "1");
  EXPECT_EQ(fs_->kind(at("b")), FileKind::kDirectory);
  expect_error(ErrorCode::kIo, {"cannot rename ", "/x\" to "}, [&] { fs_->rename(at("x"), at("y")); });
  expect_error(ErrorCode::kIo, {"cannot exchange ", "/x\" and "},
               [&] { static_cast<void>(fs_->exchange(at("x"), at("d"))); });
}

TEST_F(PosixFileSystem, ALockIsExclusiveUntilDropped) {
  auto first = fs_->try_lock(at("lock"));
  ASSERT_NE(first, nullptr);

  EXPECT_EQ(fs_->try_lock(at("lock")), nullptr);
  first.reset();
  EXPECT_NE(fs_->try_lock(at("lock")), nullptr);
}

TEST_F(PosixFileSystem, ReadTextRefusesWhatIsTooLong) {
  put_file(at("text"), "12345");

  EXPECT_EQ(read_text(*fs_, at("text"), 5), "12345");
  expect_error(ErrorCode::kBadInput, {"text\" is 5 B long, more than the 4 B"},
               [&] { static_cast<void>(read_text(*fs_, at("text"), 4)); });
}

TEST_F(PosixFileSystem, KnowsTheFreeSpace) {
  EXPECT_GT(fs_->free_bytes(dir_.path()), 0U);
  EXPECT_NO_THROW(fs_->sync_directory(dir_.path()));
}

}  // namespace
}  // namespace halfquad
