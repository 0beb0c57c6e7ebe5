#include <cstring>
#include <filesystem>
#include <string>
#include <vector>

#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include "io/importance_file.h"
#include "io/posix_file_system.h"
#include "tests/support/expect_error.h"
#include "tests/support/gguf_file.h"
#include "tests/support/memory_file.h"
#include "tests/support/temp_dir.h"
#include "tests/support/test_checkpoint.h"

namespace halfquad {
namespace {

using test::expect_error;
using test::gguf_file;
using testing::ElementsAre;
using testing::HasSubstr;

std::string raw_floats(const std::vector<float>& values) {
  return {reinterpret_cast<const char*>(values.data()), values.size() * sizeof(float)};
}

std::string raw_int(std::int32_t value) { return {reinterpret_cast<const char*>(&value), sizeof value}; }

/// An entry of the older binary form.
std::string legacy_entry(const std::string& name, const std::vector<float>& values) {
  return raw_int(static_cast<std::int32_t>(name.size())) + name + raw_int(1) +
         raw_int(static_cast<std::int32_t>(values.size())) + raw_floats(values);
}

ImportanceFile parse(std::string bytes) {
  return ImportanceFile::parse(std::make_unique<MemoryReadFile>(std::move(bytes)), "the file");
}

std::vector<float> floats(const ImportanceFile& file, std::size_t entry, std::int64_t first, std::int64_t count) {
  const std::vector<std::byte> bytes = file.read(file.entries()[entry], first, count);
  std::vector<float> values(static_cast<std::size_t>(count));
  EXPECT_EQ(bytes.size(), values.size() * sizeof(float));
  std::memcpy(values.data(), bytes.data(), bytes.size());
  return values;
}

TEST(ImportanceFile, OfGgufHasSumsAndCounts) {
  const ImportanceFile file =
      parse(gguf_file({}, {{"a.weight.in_sum2", {3, 2}, GgmlTypeId::kF32, raw_floats({1, 2, 3, 4, 5, 6})},
                           {"a.weight.counts", {1, 2}, GgmlTypeId::kF32, raw_floats({7, 0})},
                           {"b.in_sum2", {2}, GgmlTypeId::kF32, raw_floats({8, 9})}}));

  EXPECT_EQ(file.kind(), ImportanceFile::Kind::kImatrixGguf);
  ASSERT_EQ(file.entries().size(), 2U);
  EXPECT_EQ(file.entries()[0].name, "a");
  EXPECT_EQ(file.entries()[0].values, 6);
  EXPECT_EQ(file.entries()[0].rows, 2);
  EXPECT_THAT(file.entries()[0].counts, ElementsAre(7, 0));
  EXPECT_THAT(floats(file, 0, 2, 3), ElementsAre(3, 4, 5));
  EXPECT_EQ(file.entries()[1].name, "b");
  EXPECT_EQ(file.entries()[1].rows, 1);
  EXPECT_TRUE(file.entries()[1].counts.empty());
  EXPECT_THAT(floats(file, 1, 0, 2), ElementsAre(8, 9));
}

TEST(ImportanceFile, OfTheOlderFormHasValuesAlone) {
  const std::string entries =
      raw_int(2) + legacy_entry("blk.0.attn_q.weight", {1, 2, 3}) + legacy_entry("output.weight", {4});
  for (const std::string& end : {std::string(), raw_int(9), raw_int(9) + raw_int(3) + "abc"}) {
    const ImportanceFile file = parse(entries + end);

    EXPECT_EQ(file.kind(), ImportanceFile::Kind::kImatrixLegacy);
    ASSERT_EQ(file.entries().size(), 2U);
    EXPECT_EQ(file.entries()[0].name, "blk.0.attn_q");
    EXPECT_EQ(file.entries()[0].rows, 0);
    EXPECT_THAT(floats(file, 0, 1, 2), ElementsAre(2, 3));
    EXPECT_EQ(file.entries()[1].name, "output");
    EXPECT_THAT(floats(file, 1, 0, 1), ElementsAre(4));
  }
}

TEST(ImportanceFile, OfSafetensorsHasVectorsAndMatrices) {
  const ImportanceFile file = parse(test::safetensors_bytes(
      {test::f32_tensor("a.q_proj", {2}, {1, 2}), test::f32_tensor("experts.weight", {2, 1}, {3, 4})}));

  EXPECT_EQ(file.kind(), ImportanceFile::Kind::kSafetensors);
  ASSERT_EQ(file.entries().size(), 2U);
  EXPECT_EQ(file.entries()[0].name, "a.q_proj");
  EXPECT_EQ(file.entries()[0].rows, 1);
  EXPECT_EQ(file.entries()[1].name, "experts");
  EXPECT_EQ(file.entries()[1].rows, 2);
  EXPECT_THAT(floats(file, 1, 0, 2), ElementsAre(3, 4));
}

TEST(ImportanceFile, ReadsWhatOtherProgramsWrote) {
  const auto files = make_posix_file_system();
  const std::filesystem::path folder = std::filesystem::path(HALFQUAD_GOLDEN_DIR) / "importance";
  const ImportanceFile gguf = ImportanceFile::open(*files, folder / "imatrix.gguf");
  const ImportanceFile legacy = ImportanceFile::open(*files, folder / "imatrix.dat");

  ASSERT_EQ(gguf.entries().size(), 14U);
  ASSERT_EQ(legacy.entries().size(), 14U);
  for (std::size_t i = 0; i < gguf.entries().size(); ++i) {
    const ImportanceEntry& entry = gguf.entries()[i];
    SCOPED_TRACE(entry.name);
    EXPECT_EQ(entry.name, legacy.entries()[i].name);
    EXPECT_EQ(entry.values, legacy.entries()[i].values);
    EXPECT_EQ(entry.counts.size(), static_cast<std::size_t>(entry.rows));
    for (std::int64_t row = 0; row < entry.rows; ++row) {
      const float count = entry.counts[static_cast<std::size_t>(row)];
      const std::int64_t cols = entry.values / entry.rows;
      const std::vector<float> sums = floats(gguf, i, row * cols, cols);
      const std::vector<float> means = floats(legacy, i, row * cols, cols);
      for (std::size_t col = 0; col < sums.size(); ++col) {
        EXPECT_NEAR(count > 0 ? sums[col] / count / means[col] : means[col], 1, 1e-6);
      }
    }
  }
  EXPECT_EQ(ImportanceFile::open(*files, folder / "modules.safetensors").entries().size(), 12U);
}

TEST(ImportanceFile, HasAChecksumOfAllItsBytes) {
  const std::string bytes = raw_int(1) + legacy_entry("a", std::vector<float>(3 << 20));
  std::string other = bytes;
  other[other.size() - 1] = 1;
  EXPECT_EQ(parse(bytes).digest(), parse(bytes).digest());
  EXPECT_NE(parse(bytes).digest(), parse(other).digest());
}

TEST(ImportanceFile, ThatIsNotThereIsNamed) {
  const auto files = make_posix_file_system();
  const test::TempDir folder;
  expect_error(ErrorCode::kBadInput, {"nothing.gguf", "no such importance file"},
               [&] { static_cast<void>(ImportanceFile::open(*files, folder.path() / "nothing.gguf")); });
}

struct Defect {
  const char* name;
  std::string bytes;
  const char* reason;
};

class MalformedImportance : public testing::TestWithParam<Defect> {};

TEST_P(MalformedImportance, IsRefusedWithItsOwnReason) {
  expect_error(ErrorCode::kBadInput, {"\"the file\": ", GetParam().reason},
               [&] { static_cast<void>(parse(GetParam().bytes)); });
}

std::string two_tensors(const std::string& name, const std::vector<std::int64_t>& dims, GgmlTypeId type,
                        const std::string& data = {}) {
  return gguf_file({}, {{"a.in_sum2", {4}, GgmlTypeId::kF32, raw_floats({1, 2, 3, 4})}, {name, dims, type, data}});
}

std::string of_one_tensor(DType dtype, const std::vector<std::int64_t>& shape) {
  return test::safetensors_bytes({test::random_tensor("a", dtype, shape)});
}

INSTANTIATE_TEST_SUITE_P(
    Gguf, MalformedImportance,
    testing::Values(Defect{"header", std::string("GGUF\x09\0\0\0\0\0\0\0", 12), "GGUF version 9 is unknown"},
                    Defect{"no_imatrix", gguf_file({}, {{"a.weight", {4}}}), "this GGUF file is no imatrix"},
                    Defect{"no_sums", two_tensors("b.counts", {1}, GgmlTypeId::kF32), "\"b\" has counts and no sums"},
                    Defect{"f16_sums", two_tensors("b.in_sum2", {4}, GgmlTypeId::kF16), "is F16 instead of F32"},
                    Defect{"f16_counts", two_tensors("a.counts", {1}, GgmlTypeId::kF16), "is F16 instead of F32"},
                    Defect{"empty", two_tensors("b.in_sum2", {0}, GgmlTypeId::kF32), "\"b.in_sum2\" is empty"},
                    Defect{"counts", two_tensors("a.counts", {2}, GgmlTypeId::kF32), "has 2 counts for 1 rows of sums"},
                    Defect{"negative_count", two_tensors("a.counts", {1}, GgmlTypeId::kF32, raw_floats({-1})),
                           "\"a\" has a count of -1"},
                    Defect{"nan_count",
                           two_tensors("a.counts", {1}, GgmlTypeId::kF32, raw_floats({__builtin_nanf("")})),
                           "\"a\" has a count of nan"},
                    Defect{"twice", two_tensors("a.weight.in_sum2", {1}, GgmlTypeId::kF32), "\"a\" is there twice"},
                    Defect{"no_name", two_tensors(".weight.in_sum2", {1}, GgmlTypeId::kF32), "an entry is called"}),
    [](const auto& info) { return std::string(info.param.name); });

INSTANTIATE_TEST_SUITE_P(
    Safetensors, MalformedImportance,
    testing::Values(Defect{"header", test::safetensors_raw("{]", ""), "the file"},
                    Defect{"whole_numbers", of_one_tensor(DType::kI32, {4}), "\"a\" is I32; importances are F32"},
                    Defect{"scalar", of_one_tensor(DType::kF32, {}), "\"a\" is neither a vector"},
                    Defect{"cube", of_one_tensor(DType::kF32, {2, 2, 2}), "\"a\" is neither a vector"},
                    Defect{"empty_tensor", of_one_tensor(DType::kF32, {0}), "\"a\" is neither a vector"},
                    Defect{"none", test::safetensors_bytes({}), "it holds no importance of any layer"},
                    Defect{"twice",
                           test::safetensors_bytes({test::f32_tensor("a", {1}, {1}),
                                                    test::f32_tensor("a.weight", {1}, {1})}),
                           "\"a\" is there twice"}),
    [](const auto& info) { return std::string(info.param.name); });

INSTANTIATE_TEST_SUITE_P(
    Legacy, MalformedImportance,
    testing::Values(
        Defect{"short", "abc", "3 bytes are too few"},
        Defect{"lfs", "version https://git-lfs.github.com/spec/v1", "Git LFS pointer"},
        Defect{"no_entries", raw_int(0) + std::string(20, 'x'), "neither an imatrix of llama.cpp"},
        Defect{"text", "This is a README, not an imatrix.", "neither an imatrix of llama.cpp"},
        Defect{"too_many", raw_int(3) + legacy_entry("a", {1}) + std::string(9, '\0'), "neither an imatrix"},
        Defect{"long_name", raw_int(1) + raw_int(1025) + std::string(20, 'x'), "a name of 1025 bytes"},
        Defect{"no_name", raw_int(1) + legacy_entry("", {1, 2}), "a name of 0 bytes"},
        Defect{"nul_name", raw_int(1) + legacy_entry(std::string("a\0b", 3), {1}), "a name that is no text"},
        Defect{"bytes_name", raw_int(1) + legacy_entry("\xff", {1}), "a name that is no text"},
        Defect{"cut_name", raw_int(1) + raw_int(40) + std::string(20, 'x'), "the name of entry 0 takes 40"},
        Defect{"cut_values", raw_int(1) + legacy_entry("abc", {1, 2, 3}).substr(0, 22),
               "the values of \"abc\" takes 12 bytes at byte 19, but only 7 follow"},
        Defect{"no_values", raw_int(1) + legacy_entry("abcdefgh", {}), "\"abcdefgh\" has 0 values"},
        Defect{"twice", raw_int(2) + legacy_entry("a", {1}) + legacy_entry("a.weight", {1}), "there twice"},
        Defect{"cut_end", raw_int(1) + legacy_entry("a", {1}) + "ab", "the number of chunks takes 4"},
        Defect{"cut_text", raw_int(1) + legacy_entry("a", {1}) + raw_int(1) + raw_int(5) + "ab",
               "the name of the text takes 5"},
        Defect{"negative_text", raw_int(1) + legacy_entry("a", {1}) + raw_int(1) + raw_int(-5),
               "the name of its text has -5 bytes"},
        Defect{"more", raw_int(1) + legacy_entry("a", {1}) + raw_int(1) + raw_int(1) + "ab", "1 bytes follow its end"}),
    [](const auto& info) { return std::string(info.param.name); });

}  // namespace
}  // namespace halfquad
