#include <cstdint>
#include <limits>
#include <string>
#include <vector>

#include <fmt/format.h>
#include <gtest/gtest.h>

#include "io/posix_file_system.h"
#include "io/safetensors_header.h"
#include "tests/support/expect_error.h"
#include "tests/support/temp_dir.h"
#include "tests/support/test_checkpoint.h"

namespace halfquad {
namespace {

using test::expect_error;

/// One tensor "t" with the given fields.
std::string tensor(const std::string& dtype, const std::string& shape, const std::string& offsets) {
  return fmt::format(R"({{"t":{{"dtype":{},"shape":{},"data_offsets":{}}}}})", dtype, shape, offsets);
}

struct Defect {
  const char* name;
  std::string json;
  std::uint64_t data_bytes;
  const char* reason;
};

class MalformedHeader : public ::testing::TestWithParam<Defect> {};

TEST_P(MalformedHeader, IsRefusedWithItsOwnReason) {
  const Defect& defect = GetParam();

  expect_error(ErrorCode::kBadInput, {"\"m.safetensors\": ", defect.reason},
               [&] { static_cast<void>(parse_safetensors_header(defect.json, defect.data_bytes, "m.safetensors")); });
}

INSTANTIATE_TEST_SUITE_P(
    Syntax, MalformedHeader,
    ::testing::Values(
        Defect{"empty", "", 0, "the header is empty"}, Defect{"leading_space", " {}", 0, "begins with byte 0x20"},
        Defect{"array", "[]", 0, "begins with byte 0x5b"}, Defect{"cut", R"({"t":)", 0, "ends early at byte 5"},
        Defect{"trailing_nul", std::string("{}\0", 3), 0, "text after the end of the JSON value at byte 2"},
        Defect{"trailing_text", "{} {}", 0, "text after the end of the JSON value at byte 3"},
        Defect{"bad_utf8", "{\"\xfe\":1}", 0, "malformed JSON"},
        Defect{"nul_in_name", R"({"a\u0000":{"dtype":"U8","shape":[],"data_offsets":[0,1]}})", 1, "NUL in the key"},
        Defect{"empty_name", R"({"":{"dtype":"U8","shape":[],"data_offsets":[0,1]}})", 1, "has an empty name"},
        Defect{
            "duplicate_tensor",
            R"({"a":{"dtype":"U8","shape":[1],"data_offsets":[0,1]},"a":{"dtype":"U8","shape":[1],"data_offsets":[0,1]}})",
            1, "duplicate key \"a\" at byte"},
        Defect{"duplicate_metadata", R"({"__metadata__":{},"__metadata__":{}})", 0, "duplicate key \"__metadata__\""},
        Defect{"duplicate_in_metadata", R"({"__metadata__":{"a":"b","a":"b"}})", 0, "duplicate key \"a\""},
        Defect{"metadata_not_object", R"({"__metadata__":"pt"})", 0, "__metadata__ in the header is not a JSON object"},
        Defect{"metadata_not_string", R"({"__metadata__":{"n":4}})", 0, "value for \"n\" that is not a string"}),
    [](const auto& info) { return std::string(info.param.name); });

INSTANTIATE_TEST_SUITE_P(
    Fields, MalformedHeader,
    ::testing::Values(
        Defect{"entry_not_object", R"({"t":[1]})", 0, "tensor \"t\" is not a JSON object"},
        Defect{"no_dtype", R"({"t":{"shape":[],"data_offsets":[0,1]}})", 1, "tensor \"t\" has no \"dtype\""},
        Defect{"no_shape", R"({"t":{"dtype":"U8","data_offsets":[0,1]}})", 1, "tensor \"t\" has no \"shape\""},
        Defect{"no_offsets", R"({"t":{"dtype":"U8","shape":[]}})", 1, "tensor \"t\" has no \"data_offsets\""},
        Defect{"dtype_not_string", tensor("8", "[1]", "[0,1]"), 1, "\"dtype\" that is not a string"},
        Defect{"dtype_unknown", tensor("\"Q9\\u001b\"", "[1]", "[0,1]"), 1, R"(unknown dtype "Q9\x1b")"},
        Defect{"shape_not_array", tensor("\"U8\"", "4", "[0,4]"), 4, "\"shape\" that is not an array"},
        Defect{"dim_negative", tensor("\"U8\"", "[-1]", "[0,1]"), 1, "negative dimension -1"},
        Defect{"dim_fraction", tensor("\"U8\"", "[1.5]", "[0,1]"), 1, "dimension that is not an integer"},
        Defect{"dim_float", tensor("\"U8\"", "[1.0]", "[0,1]"), 1, "dimension that is not an integer"},
        Defect{"dim_string", tensor("\"U8\"", "[\"1\"]", "[0,1]"), 1, "dimension that is not an integer"},
        Defect{"dim_too_large", tensor("\"U8\"", "[9223372036854775808]", "[0,1]"), 1, "dimension 9223372036854775808"},
        Defect{"shape_overflow", tensor("\"U8\"", "[4294967296,4294967296]", "[0,0]"), 0, "overflows 63 bits"},
        Defect{"shape_overflow_before_zero", tensor("\"U8\"", "[4294967296,4294967296,0]", "[0,0]"), 0, "overflows"},
        Defect{"bits_overflow", tensor("\"F64\"", "[1152921504606846976]", "[0,0]"), 0, "overflows 63 bits"},
        Defect{"half_byte", tensor("\"F4\"", "[3]", "[0,2]"), 2, "3 elements of F4, which do not fill whole bytes"},
        Defect{"quarter_byte", tensor("\"F6_E2M3\"", "[2]", "[0,2]"), 2, "do not fill whole bytes"},
        Defect{"offsets_not_array", tensor("\"U8\"", "[1]", "{}"), 1, "\"data_offsets\" that is not an array"},
        Defect{"offsets_one", tensor("\"U8\"", "[1]", "[0]"), 1, "1 data_offsets instead of two"},
        Defect{"offsets_three", tensor("\"U8\"", "[1]", "[0,1,2]"), 1, "3 data_offsets instead of two"},
        Defect{"offset_negative", tensor("\"U8\"", "[1]", "[-1,0]"), 1, "negative data offset -1"},
        Defect{"offset_fraction", tensor("\"U8\"", "[1]", "[0,1.0]"), 1, "data offset that is not an integer"},
        Defect{"offsets_backwards", tensor("\"U8\"", "[1]", "[2,1]"), 2, "[2, 1] that run backwards"},
        Defect{"size_mismatch", tensor("\"F32\"", "[2,3]", "[0,20]"), 20,
               "[0, 20], 20 bytes, but its shape [2, 3] of F32 takes 24"}),
    [](const auto& info) { return std::string(info.param.name); });

constexpr const char* kTwo =
    R"({{"a":{{"dtype":"U8","shape":[4],"data_offsets":[0,4]}},"b":{{"dtype":"U8","shape":[4],"data_offsets":[{},{}]}}}})";

INSTANTIATE_TEST_SUITE_P(
    Layout, MalformedHeader,
    ::testing::Values(Defect{"hole", fmt::format(fmt::runtime(kTwo), 6, 10), 10,
                             "tensor \"b\" begins at byte 6 of the data and leaves a hole of 2"},
                      Defect{"hole_at_start", tensor("\"U8\"", "[1]", "[1,2]"), 2, "leaves a hole of 1 bytes"},
                      Defect{"overlap", fmt::format(fmt::runtime(kTwo), 3, 7), 7,
                             "tensor \"b\" begins at byte 3 of the data and overlaps tensor \"a\""},
                      Defect{"same_bytes", fmt::format(fmt::runtime(kTwo), 0, 4), 4, "overlaps tensor \"a\""},
                      Defect{"trailing_data", fmt::format(fmt::runtime(kTwo), 4, 8), 11,
                             "3 bytes follow the last tensor"},
                      Defect{"data_without_tensors", "{}", 1, "1 bytes follow the last tensor"},
                      Defect{"cut_short", fmt::format(fmt::runtime(kTwo), 4, 8), 7,
                             "tensor \"b\" ends at byte 8 of the data, but the file holds 7"},
                      Defect{"offset_huge", tensor("\"U8\"", "[0]", "[18446744073709551615,18446744073709551615]"), 1,
                             "ends at byte 18446744073709551615"}),
    [](const auto& info) { return std::string(info.param.name); });

TEST(SafetensorsHeader, SortsTensorsByOffsetAndKeepsMetadata) {
  const std::string json =
      R"({"b":{"dtype":"BF16","shape":[2,2],"data_offsets":[4,12]},"__metadata__":{"format":"pt"},)"
      R"("a":{"dtype":"I32","shape":[],"data_offsets":[0,4],"extra":[1]},"e":{"dtype":"U8","shape":[3,0],"data_offsets":[4,4]}}  )";

  const SafetensorsHeader header = parse_safetensors_header(json, 12, "f");

  ASSERT_EQ(header.tensors.size(), 3U);
  EXPECT_EQ(header.tensors[0].name, "a");
  EXPECT_EQ(header.tensors[1].name, "e");
  EXPECT_EQ(header.tensors[2].name, "b");
  EXPECT_EQ(header.tensors[2].dtype, DType::kBF16);
  EXPECT_EQ(header.tensors[2].shape, (std::vector<std::int64_t>{2, 2}));
  EXPECT_EQ(header.tensors[2].bytes(), 8U);
  EXPECT_EQ(header.metadata.at("format"), "pt");
  EXPECT_EQ(header.data_start, 8 + json.size());
}

TEST(SafetensorsHeader, AcceptsControlCharactersInNamesAndPrintsThemEscaped) {
  const std::string json = R"({"a\u001b[2J\n":{"dtype":"U8","shape":[1],"data_offsets":[0,1]}})";

  EXPECT_EQ(parse_safetensors_header(json, 1, "f").tensors[0].name, "a\x1b[2J\n");
  expect_error(ErrorCode::kBadInput, {R"(tensor "a\x1b[2J\n")"},
               [&] { static_cast<void>(parse_safetensors_header(json, 0, "f")); });
}

TEST(SafetensorsHeader, AcceptsSubByteTypesThatFillBytes) {
  EXPECT_EQ(parse_safetensors_header(tensor("\"F4\"", "[2,3]", "[0,3]"), 3, "f").tensors[0].bytes(), 3U);
  EXPECT_EQ(parse_safetensors_header(tensor("\"F6_E3M2\"", "[4]", "[0,3]"), 3, "f").tensors[0].bytes(), 3U);
}

TEST(ElementCount, RefusesNegativeAndOverflow) {
  const std::vector<std::int64_t> scalar;
  const std::vector<std::int64_t> huge = {std::numeric_limits<std::int64_t>::max(), 2};
  const std::vector<std::int64_t> negative = {-1, 0};
  const std::vector<std::int64_t> plain = {3, 5, 7};

  EXPECT_EQ(element_count(scalar), 1);
  EXPECT_EQ(element_count(plain), 105);
  EXPECT_FALSE(element_count(huge).has_value());
  EXPECT_FALSE(element_count(negative).has_value());
}

class HeaderFile : public ::testing::Test {
 protected:
  SafetensorsHeader read(const std::string& bytes) {
    test::put_file(dir_.path() / "f.safetensors", bytes);
    const auto file = fs_->open_read(dir_.path() / "f.safetensors", ReadMode::kBuffered);
    return read_safetensors_header(*file, "f.safetensors");
  }
  void expect_refusal(const std::string& bytes, std::string_view reason) {
    expect_error(ErrorCode::kBadInput, {"\"f.safetensors\": ", reason}, [&] { static_cast<void>(read(bytes)); });
  }

  test::TempDir dir_;
  std::unique_ptr<FileSystem> fs_ = make_posix_file_system();
};

TEST_F(HeaderFile, IsReadFromItsFile) {
  const SafetensorsHeader header = read(test::safetensors_bytes({test::f32_tensor("t", {2}, {1, 2})}));

  EXPECT_EQ(header.tensors[0].bytes(), 8U);
  EXPECT_EQ(header.metadata.at("format"), "pt");
}

TEST_F(HeaderFile, TooSmallForItsLengthIsRefused) { expect_refusal("1234567", "7 bytes are too few"); }

TEST_F(HeaderFile, EmptyHeaderIsRefused) { expect_refusal(std::string(8, '\0'), "the header is empty"); }

TEST_F(HeaderFile, LengthAboveTheLimitIsRefused) {
  expect_refusal(std::string("\x01\xe1\xf5\x05\0\0\0\0", 8), "claim a header of 100000001 bytes");
}

TEST_F(HeaderFile, HugeLengthIsRefusedWithoutAllocation) {
  expect_refusal(std::string(8, '\xff') + "{}", "claim a header of 18446744073709551615 bytes");
}

TEST_F(HeaderFile, LengthPastTheEndIsRefused) {
  expect_refusal(std::string("\x09\0\0\0\0\0\0\0{}      ", 16), "the header claims 9 bytes but only 8 follow");
}

TEST_F(HeaderFile, GitLfsPointerIsNamed) {
  expect_refusal("version https://git-lfs.github.com/spec/v1\noid sha256:00\nsize 1\n", "Git LFS pointer");
}

TEST(SerializeSafetensorsHeader, ReadsBackAndIsPadded) {
  const std::vector<TensorEntry> tensors = {{"l.W_q", DType::kU8, {2, 2}, 0, 4}, {"q\"\n", DType::kI32, {}, 4, 8}};

  const std::string bytes = serialize_safetensors_header(tensors, {{"format", "pt"}, {"a", "\xc3\xa9"}});
  const SafetensorsHeader header = parse_safetensors_header(std::string_view(bytes).substr(8), 8, "f");

  EXPECT_EQ(bytes.size() % 8, 0U);
  EXPECT_EQ(header.data_start, bytes.size());
  EXPECT_EQ(bytes.substr(8, 40), R"({"__metadata__":{"a":")"
                                 "\xc3\xa9"
                                 R"(","format":"pt"})");
  EXPECT_EQ(static_cast<unsigned char>(bytes[0]) + 256U * static_cast<unsigned char>(bytes[1]), bytes.size() - 8);
  ASSERT_EQ(header.tensors.size(), 2U);
  EXPECT_EQ(header.tensors[1].name, "q\"\n");
  EXPECT_EQ(header.tensors[0].shape, (std::vector<std::int64_t>{2, 2}));
  EXPECT_EQ(header.metadata.at("a"), "\xc3\xa9");
}

TEST(SerializeSafetensorsHeader, RefusesAHoleBetweenTensors) {
  const std::vector<TensorEntry> tensors = {{"a", DType::kU8, {4}, 0, 4}, {"b", DType::kU8, {1}, 5, 6}};

  expect_error(ErrorCode::kInternal, {"output tensor \"b\""},
               [&] { static_cast<void>(serialize_safetensors_header(tensors, {})); });
}

}  // namespace
}  // namespace halfquad
