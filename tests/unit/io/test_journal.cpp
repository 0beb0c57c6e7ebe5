#include <algorithm>
#include <cstddef>
#include <cstdint>
#include <filesystem>
#include <memory>
#include <span>
#include <string>
#include <utility>
#include <vector>

#include <gtest/gtest.h>

#include "io/journal.h"
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

using Records = std::vector<std::string>;

constexpr std::size_t kFrameBytes = 16;

std::span<const std::byte> as_record(const std::string& text) { return std::as_bytes(std::span(text)); }

class JournalTest : public ::testing::Test {
 protected:
  /// Writes `records` and gives the file's bytes.
  std::string write(const Records& records) {
    std::filesystem::remove(path_);
    JournalWriter writer(*fs_, path_);
    for (const std::string& record : records) writer.append(as_record(record));
    writer.close();
    return get_file(path_);
  }
  /// The records that are read back, and the bytes left.
  std::pair<Records, std::uint64_t> read() {
    Records records;
    const std::uint64_t left = read_journal(*fs_, path_, [&](std::span<const std::byte> record) {
      records.emplace_back(reinterpret_cast<const char*>(record.data()), record.size());
    });
    return {records, left};
  }
  std::pair<Records, std::uint64_t> read(const std::string& bytes) {
    put_file(path_, bytes);
    return read();
  }

  /// How often reading the journal asks the system for bytes.
  std::size_t count_reads() {
    const auto plan = std::make_shared<FaultPlan>();
    FaultyFileSystem fs(*fs_, plan);
    read_journal(fs, path_, [](std::span<const std::byte>) {});
    return plan->calls() - 1;  // without the opening
  }

  test::TempDir dir_;
  std::filesystem::path path_ = dir_.path() / "journal-0001-0000";
  std::unique_ptr<FileSystem> fs_ = make_posix_file_system();
};

using Result = std::pair<Records, std::uint64_t>;

TEST_F(JournalTest, RecordsComeBackInOrder) {
  const Records records{"first", std::string(1, '\0'), std::string(100, 'x'), "last"};

  write(records);

  EXPECT_EQ(read(), Result(records, 0));
}

TEST_F(JournalTest, TheFrameIsWhatTheFormatSays) {
  const std::string bytes = write({"abc"});

  EXPECT_EQ(bytes.substr(0, 8), std::string("HJL1\x03\0\0\0", 8));
  // XXH3-64 of "abc" with seed 0, as its other implementations give it.
  EXPECT_EQ(bytes.substr(8, 8), "\x50\x39\x2F\x89\x94\x5F\xAF\x78");
  EXPECT_EQ(bytes.substr(16), "abc");
}

TEST_F(JournalTest, RecordsLargerThanOnePieceAndManySmallOnesComeBack) {
  Records records{std::string((3 << 20) + 5, 'a')};
  for (std::size_t i = 0; i < 3000; ++i) records.emplace_back(1 + i % 1000, static_cast<char>('b' + i % 20));
  records.emplace_back((2 << 20) + 1, 'z');

  write(records);

  EXPECT_TRUE(read() == Result(records, 0));
}

TEST_F(JournalTest, AnEmptyJournalHasNoRecords) {
  write({});

  EXPECT_EQ(read(), Result({}, 0));
}

TEST_F(JournalTest, ATornTailEndsItAfterTheLastWholeRecord) {
  const std::string bytes = write({"one", "two", "three"});
  const std::size_t second_end = bytes.size() - kFrameBytes - 5;

  for (std::size_t cut = 0; cut < bytes.size(); ++cut) {
    const auto [records, left] = read(bytes.substr(0, cut));
    const std::size_t whole = cut >= second_end ? 2U : cut >= kFrameBytes + 3 ? 1U : 0U;
    ASSERT_EQ(records.size(), whole) << cut;
    ASSERT_EQ(left, cut - whole * (kFrameBytes + 3)) << cut;
    ASSERT_LE(count_reads(), 1U) << "asks for bytes behind the end " << cut;
  }
}

TEST_F(JournalTest, ZerosAtTheEndAreNoRecords) {
  const std::string bytes = write({"one", "two"});

  for (const std::size_t zeros : {1U, 15U, 16U, 4096U}) {
    EXPECT_EQ(read(bytes + std::string(zeros, '\0')), Result({"one", "two"}, zeros));
  }
  std::string torn = bytes;
  torn.replace(torn.size() - 2, 2, 2, '\0');  // the length was durable, the data was not
  EXPECT_EQ(read(torn), Result({"one"}, kFrameBytes + 3));
}

TEST_F(JournalTest, AnAlteredByteEndsItThere) {
  const std::string bytes = write({"one", "two", "three"});
  const std::size_t frame = kFrameBytes + 3;

  for (std::size_t at = 0; at < bytes.size(); ++at) {
    std::string altered = bytes;
    altered[at] = static_cast<char>(altered[at] ^ 0x10);
    const auto [records, left] = read(altered);
    const std::size_t intact = std::min<std::size_t>(at / frame, 2);
    Records expected{"one", "two", "three"};
    expected.resize(intact);
    ASSERT_EQ(records, expected) << at;
    ASSERT_EQ(left, bytes.size() - intact * frame) << at;
  }
}

TEST_F(JournalTest, AnIntactFrameInAnotherPlaceIsNotAccepted) {
  const std::string bytes = write({"one", "two"});
  const std::size_t frame = kFrameBytes + 3;

  EXPECT_EQ(read(bytes + bytes.substr(frame)), Result({"one", "two"}, frame));
  EXPECT_EQ(read(bytes.substr(frame)), Result({}, frame));
}

TEST_F(JournalTest, AFrameOfNoBytesIsNoRecord) {
  const std::string empty_frame("HJL1\0\0\0\0\xC2\x94\xD3\x38\x05\x80\x06\x2D", kFrameBytes);  // its digest is right

  EXPECT_EQ(read(empty_frame), Result({}, kFrameBytes));
}

TEST_F(JournalTest, AnAbsurdLengthIsNotAllocated) {
  std::string bytes = write({"one"});

  bytes.replace(4, 4, "\xFF\xFF\xFF\xFF");
  EXPECT_EQ(read(bytes), Result({}, bytes.size()));
  bytes.replace(4, 4, std::string("\1\0\0\4", 4));  // one more than there may be
  put_file(path_, bytes);
  std::filesystem::resize_file(path_, 2 * JournalWriter::kMostRecordBytes);  // sparse: long enough for that length
  EXPECT_EQ(read(), Result({}, 2 * JournalWriter::kMostRecordBytes));
  EXPECT_EQ(count_reads(), 1U);
}

TEST_F(JournalTest, AnExistingFileIsNotWrittenOver) {
  const std::string bytes = write({"one"});

  expect_error(ErrorCode::kInternal, {"journal-0001-0000\" exists already"},
               [&] { const JournalWriter again(*fs_, path_); });
  EXPECT_EQ(get_file(path_), bytes);
}

TEST_F(JournalTest, RecordsOfNoOrTooManyBytesAreRefused) {
  JournalWriter writer(*fs_, path_);
  const std::byte some{};

  expect_error(ErrorCode::kInternal, {"cannot have 0 bytes"}, [&] { writer.append({}); });
  expect_error(ErrorCode::kInternal, {"cannot have 67108865 bytes"}, [&] {
    writer.append({&some, JournalWriter::kMostRecordBytes + 1});
  });
}

TEST_F(JournalTest, AMissingJournalIsNamed) {
  expect_error(ErrorCode::kIo, {"journal-0001-0000"}, [&] { read(); });
}

TEST_F(JournalTest, TheFileAndItsNameAreDurableAfterSync) {
  const auto plan = std::make_shared<FaultPlan>();
  FaultyFileSystem fs(*fs_, plan);
  JournalWriter writer(fs, path_);
  writer.append(as_record("one"));

  writer.sync();

  const std::string path = path_.string();
  EXPECT_EQ(plan->log(), (Records{"kind " + path, "create " + path, "sync_directory " + dir_.path().string(),
                                  "write " + path, "write " + path, "sync " + path}));
}

TEST_F(JournalTest, AFailedAppendLeavesTheJournalFitForTheNextOne) {
  for (const std::uint64_t failing : {6U, 7U}) {  // the writes of the second record
    std::filesystem::remove(path_);
    FaultyFileSystem fs(*fs_, std::make_shared<FaultPlan>(failing));
    JournalWriter writer(fs, path_);
    writer.append(as_record("one"));

    expect_error(ErrorCode::kIo, {"injected fault", "write"}, [&] { writer.append(as_record("a lost record")); });
    EXPECT_EQ(read().first, Records{"one"});
    writer.append(as_record("three"));

    EXPECT_EQ(read().first, (Records{"one", "three"}));
  }
}

}  // namespace
}  // namespace halfquad
