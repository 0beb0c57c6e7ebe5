#include <algorithm>
#include <cstddef>
#include <cstdint>
#include <filesystem>
#include <limits>
#include <memory>
#include <span>
#include <string>
#include <vector>

#include <gtest/gtest.h>

#include "io/gguf.h"
#include "io/posix_file_system.h"
#include "tests/support/expect_error.h"
#include "tests/support/temp_dir.h"
#include "tests/unit/io/gguf_bytes.h"

namespace halfquad {
namespace {

using test::expect_error;
using test::GgufBytes;

/// A file in memory; refuses to be read beyond its end.
class MemoryFile final : public ReadFile {
 public:
  explicit MemoryFile(std::string bytes) : bytes_(std::move(bytes)) {}

  [[nodiscard]] std::uint64_t size() const override { return bytes_.size(); }
  [[nodiscard]] std::span<std::byte> read(std::uint64_t offset, std::size_t bytes,
                                          std::span<std::byte> scratch) override {
    if (offset > bytes_.size() || bytes > bytes_.size() - offset) {
      throw Error(ErrorCode::kInternal, "read beyond the end of the file");
    }
    std::copy_n(reinterpret_cast<const std::byte*>(bytes_.data()) + offset, bytes, scratch.begin());
    return scratch.first(bytes);
  }

 private:
  std::string bytes_;
};

GgufHeader parse(const std::string& bytes) {
  MemoryFile file(bytes);
  return read_gguf_header(file, "m.gguf");
}

struct Defect {
  const char* name;
  std::string bytes;
  const char* reason;
};

class MalformedGguf : public ::testing::TestWithParam<Defect> {};

TEST_P(MalformedGguf, IsRefusedWithItsOwnReason) {
  const Defect& defect = GetParam();

  expect_error(ErrorCode::kBadInput, {"\"m.gguf\": ", defect.reason}, [&] { static_cast<void>(parse(defect.bytes)); });
}

constexpr auto kName = [](const auto& info) { return std::string(info.param.name); };
constexpr std::uint64_t kHuge = std::numeric_limits<std::uint64_t>::max();

INSTANTIATE_TEST_SUITE_P(
    Start, MalformedGguf,
    ::testing::Values(
        Defect{"empty", "", "0 bytes are too few for a GGUF file"}, Defect{"three_bytes", "GGU", "3 bytes are too few"},
        Defect{"magic", "GGML....", "begins with \"GGML\" instead of \"GGUF\" (at byte 0)"},
        Defect{"lfs", "version https://git-lfs.github.com/spec/v1\n", "this is a Git LFS pointer"},
        Defect{"version_cut", "GGUF\3", "the version takes 4 bytes but only 1 follow"},
        Defect{"version_zero", GgufBytes(0, 0, 0), "GGUF version 0 is unknown"},
        Defect{"version_one", GgufBytes(1, 0, 0), "GGUF version 1 is not supported"},
        Defect{"version_new", GgufBytes(4, 0, 0), "GGUF version 4 is unknown; 2 and 3 are supported"},
        Defect{"big_endian", GgufBytes(0x03000000, 0, 0), "big-endian GGUF files are not supported (at byte 4)"},
        Defect{"counts_cut", std::string("GGUF\3\0\0\0\0\0", 10), "the number of tensors takes 8 bytes but only 2"},
        Defect{"keys_many", GgufBytes(3, 0, 2).key("a", 1), "2 keys are claimed, but only 17 bytes follow"},
        Defect{"keys_huge", GgufBytes(3, 0, kHuge), "18446744073709551615 keys are claimed"},
        Defect{"tensors_huge", GgufBytes(3, kHuge, 0), "18446744073709551615 tensors are claimed"}),
    kName);

INSTANTIATE_TEST_SUITE_P(
    Keys, MalformedGguf,
    ::testing::Values(
        Defect{"key_empty", GgufBytes(3, 0, 1).key("", 1).data(32), "key 0 has an empty name (at byte 24)"},
        Defect{"key_nul", GgufBytes(3, 0, 1).key(std::string("a\0b", 3), 1), "key 0 has a NUL in its name \"a\\x00b\""},
        Defect{"key_utf8", GgufBytes(3, 0, 1).key("a\xff", 1), "key 0 has a name that is not UTF-8"},
        Defect{"key_length", GgufBytes(3, 0, 1).u64(kHuge).data(32), "the name of key 0 takes 18446744073709551615"},
        Defect{"key_duplicate", GgufBytes(3, 0, 2).key("a", 1).key("a", 2),
               "the key \"a\" is there twice (at byte 41)"},
        Defect{"value_type", GgufBytes(3, 0, 1).text("a").u32(13).u32(0), "the value of \"a\" has the unknown type 13"},
        Defect{"value_cut", GgufBytes(3, 0, 1).text("a").u32(10).u32(0), "the value of \"a\" takes 8 bytes but only 4"},
        Defect{"bool_two", GgufBytes(3, 0, 1).text("a").u32(7).u8(2), "a bool of 2, which is neither 0 nor 1"},
        Defect{"string_cut", GgufBytes(3, 0, 1).text("a").u32(8).u64(5).raw("abcd"), "takes 5 bytes but only 4 follow"},
        Defect{"string_huge", GgufBytes(3, 0, 1).text("a").u32(8).u64(kHuge), "takes 18446744073709551615 bytes"},
        Defect{"array_type", GgufBytes(3, 0, 1).text("a").u32(9).u32(13).u64(0), "elements of unknown type 13"},
        Defect{"array_nested", GgufBytes(3, 0, 1).text("a").u32(9).u32(9).u64(0), "\"a\" is an array of arrays"},
        Defect{"array_count", GgufBytes(3, 0, 1).text("a").u32(9).u32(4).u64(3).u64(0),
               "the value of \"a\" claims 3 elements, but only 8 bytes follow"},
        Defect{"array_huge", GgufBytes(3, 0, 1).text("a").u32(9).u32(10).u64(std::uint64_t{1} << 61U),
               "claims 2305843009213693952 elements"},
        Defect{"array_strings", GgufBytes(3, 0, 1).text("a").u32(9).u32(8).u64(2).u64(0).u32(0),
               "claims 2 elements, but only 12 bytes follow"},
        Defect{"array_bool", GgufBytes(3, 0, 1).text("a").u32(9).u32(7).u64(2).u8(1).u8(9), "a bool of 9"},
        Defect{"alignment_zero", GgufBytes(3, 0, 1).key("general.alignment", 0), "0, which is no power of 2"},
        Defect{"alignment_odd", GgufBytes(3, 0, 1).key("general.alignment", 48), "48, which is no power of 2"},
        Defect{"alignment_type", GgufBytes(3, 0, 1).text("general.alignment").u32(10).u64(32), "is a u64 instead of"}),
    kName);

INSTANTIATE_TEST_SUITE_P(
    Tensors, MalformedGguf,
    ::testing::Values(
        Defect{"name_empty", GgufBytes(3, 1, 0).tensor("", {8}, 0, 0).data(32), "tensor 0 has an empty name"},
        Defect{"name_nul", GgufBytes(3, 1, 0).tensor(std::string("\0", 1), {8}, 0, 0).data(32), "a NUL in its name"},
        Defect{"name_utf8", GgufBytes(3, 1, 0).tensor("\xc0\x80", {8}, 0, 0).data(32),
               "tensor 0 has a name that is not"},
        Defect{"name_long", GgufBytes(3, 1, 0).tensor(std::string(64, 'a'), {8}, 0, 0).data(32),
               "a name of 64 bytes, more than the 63 allowed"},
        Defect{"name_duplicate", GgufBytes(3, 2, 0).tensor("a", {8}, 0, 0).tensor("a", {8}, 0, 32).data(64),
               "tensor \"a\" is there twice"},
        Defect{"dims_five", GgufBytes(3, 1, 0).tensor("a", {1, 1, 1, 1, 1}, 0, 0).data(32),
               "5 dimensions, more than 4"},
        Defect{"dims_huge", GgufBytes(3, 1, 0).text("a").u32(0xFFFFFFFF).data(32), "4294967295 dimensions"},
        Defect{"dim_negative", GgufBytes(3, 1, 0).tensor("a", {8, kHuge}, 0, 0).data(32), "has the dimension -1"},
        Defect{"type_unknown", GgufBytes(3, 1, 0).tensor("a", {8}, 99, 0).data(32), "\"a\" has the unknown type 99"},
        Defect{"type_removed", GgufBytes(3, 1, 0).tensor("a", {32}, 4, 0).data(32), "has the unknown type 4"},
        Defect{"row_blocks", GgufBytes(3, 1, 0).tensor("a", {48, 2}, 3, 0).data(64),
               "rows of 48 elements, which is no multiple of the 32 in a block of Q4_1"},
        Defect{"row_blocks_scalar", GgufBytes(3, 1, 0).tensor("a", {}, 3, 0).data(64), "rows of 1 elements"},
        Defect{"size_overflow",
               GgufBytes(3, 1, 0).tensor("a", {std::uint64_t{1} << 32U, std::uint64_t{1} << 31U}, 0, 0).data(32),
               "a size that overflows 63 bits: [4294967296, 2147483648]"},
        Defect{"size_overflow_empty",
               GgufBytes(3, 1, 0).tensor("a", {std::uint64_t{1} << 32U, 0, std::uint64_t{1} << 32U}, 0, 0).data(32),
               "a size that overflows 63 bits: [4294967296, 0, 4294967296]"},
        Defect{"offset_first", GgufBytes(3, 1, 0).tensor("a", {8}, 0, 32).data(64),
               "tensor \"a\" is at byte 32 of the data instead of 0"},
        Defect{"offset_hole", GgufBytes(3, 2, 0).tensor("a", {8}, 0, 0).tensor("b", {8}, 0, 64).data(96),
               "tensor \"b\" is at byte 64 of the data instead of 32"},
        Defect{"offset_unpadded", GgufBytes(3, 2, 0).tensor("a", {2}, 0, 0).tensor("b", {8}, 0, 8).data(64),
               "tensor \"b\" is at byte 8 of the data instead of 32"},
        Defect{"offset_order", GgufBytes(3, 2, 0).tensor("a", {8}, 0, 32).tensor("b", {8}, 0, 0).data(64),
               "tensor \"a\" is at byte 32 of the data instead of 0"},
        Defect{"data_missing", GgufBytes(3, 1, 0).tensor("a", {8}, 0, 0), "behind the end of the file"},
        Defect{"data_cut", GgufBytes(3, 1, 0).tensor("a", {8}, 0, 0).data(31),
               "takes 32 bytes from byte 0 of the data, but the file holds 31"},
        Defect{"data_huge", GgufBytes(3, 1, 0).tensor("a", {std::uint64_t{1} << 60U}, 0, 0).data(32),
               "takes 4611686018427387904 bytes"},
        Defect{"trailing", GgufBytes(3, 1, 0).tensor("a", {8}, 0, 0).data(33), "1 bytes follow the last tensor"},
        Defect{"trailing_padded", GgufBytes(3, 1, 0).tensor("a", {2}, 0, 0).data(33), "1 bytes follow the last tensor"},
        Defect{"trailing_no_tensor", GgufBytes(3, 0, 0).data(1), "1 bytes follow the last tensor"}),
    kName);

TEST(Gguf, EveryBeginningOfAFileIsRefused) {
  const std::string whole = GgufBytes(3, 1, 1).key("k", 7).tensor("a", {8}, 0, 0).data(32);

  for (std::size_t length = 0; length < whole.size(); ++length) {
    expect_error(ErrorCode::kBadInput, {"\"m.gguf\": "}, [&] { static_cast<void>(parse(whole.substr(0, length))); });
  }
  EXPECT_EQ(parse(whole).tensors.size(), 1U);
}

TEST(Gguf, ReadsVersionTwo) { EXPECT_EQ(parse(GgufBytes(2, 0, 1).key("k", 7)).version, 2U); }

TEST(Gguf, TakesAFileWhoseLastPaddingIsMissing) {
  const GgufHeader header = parse(GgufBytes(3, 1, 0).tensor("a", {2}, 0, 0).data(8));

  EXPECT_EQ(header.tensors.at(0).bytes(), 8U);
  EXPECT_EQ(header.data_start, 64U);
}

TEST(Gguf, ReadsValuesOfEveryTypeAndWritesThemBack) {
  GgufHeader header;
  header.keys = {{"u8", std::uint8_t{200}},
                 {"i8", std::int8_t{-3}},
                 {"u16", std::uint16_t{60000}},
                 {"i16", std::int16_t{-30000}},
                 {"u32", std::uint32_t{4000000000}},
                 {"i32", std::int32_t{-2000000000}},
                 {"f32", 1.5F},
                 {"bool", true},
                 {"string", std::string("a\0b\xff", 4)},
                 {"u64", std::numeric_limits<std::uint64_t>::max()},
                 {"i64", std::numeric_limits<std::int64_t>::min()},
                 {"f64", 0.1},
                 {"a_u8", GgufArray(std::vector<std::uint8_t>{1, 2})},
                 {"a_i16", GgufArray(std::vector<std::int16_t>{-1})},
                 {"a_f32", GgufArray(std::vector<float>{0.25F, -2.0F})},
                 {"a_bool", GgufArray(std::vector<bool>{true, false, true})},
                 {"a_string", GgufArray(std::vector<std::string>{"", "x", "yz"})},
                 {"a_u64", GgufArray(std::vector<std::uint64_t>{})},
                 {"a_f64", GgufArray(std::vector<double>{1e300})}};

  const FileImage image = gguf_image(header);
  const GgufHeader again = parse(image.fixed.at(0).bytes);

  ASSERT_EQ(again.keys.size(), header.keys.size());
  for (std::size_t i = 0; i < header.keys.size(); ++i) {
    EXPECT_EQ(again.keys[i].name, header.keys[i].name);
    EXPECT_TRUE(again.keys[i].value == header.keys[i].value) << header.keys[i].name;
  }
  EXPECT_EQ(again.find("none"), nullptr);
}

TEST(Gguf, ReadsAHeaderLongerThanOnePiece) {
  GgufHeader header;
  header.keys.push_back({"tokens", GgufArray(std::vector<std::string>(300000, "token"))});
  header.keys.push_back({"text", std::string(3000000, 'x')});
  header.tensors.push_back({"a", {8}, 0, 0});
  FileImage image = gguf_image(header);
  std::string& bytes = image.fixed.at(0).bytes;
  bytes.resize(image.bytes);

  const GgufHeader again = parse(bytes);

  EXPECT_TRUE(again.keys.at(0).value == header.keys.at(0).value);
  EXPECT_TRUE(again.keys.at(1).value == header.keys.at(1).value);
  EXPECT_EQ(again.data_start, image.offsets.at(0));
}

/// The file that is described byte by byte in the format's notes: two keys, one Q4_1 tensor of one block.
TEST(Gguf, WritesTheWorkedFileByteForByte) {
  const std::string block("\x00\x38\x80\xbe\x00\x55\xaa\xff\x44\x99\xee\x33\x88\xdd\x22\x77\xcc\x11\x66\xbb", 20);
  const std::string expected = GgufBytes(3, 1, 2)
                                   .text("general.architecture")
                                   .u32(8)
                                   .text("llama")
                                   .key("llama.block_count", 1)
                                   .tensor("a.weight", {32, 1}, 3, 0)
                                   .data(0)
                                   .raw(block)
                                   .data(0);
  GgufHeader header;
  header.keys = {{"general.architecture", std::string("llama")}, {"llama.block_count", std::uint32_t{1}}};
  header.tensors = {{"a.weight", {32, 1}, 3, 0}};

  const FileImage image = gguf_image(header);

  ASSERT_EQ(image.fixed.size(), 1U);
  EXPECT_EQ(image.fixed[0].offset, 0U);
  EXPECT_EQ(image.offsets, std::vector<std::uint64_t>{160});
  EXPECT_EQ(image.bytes, 192U);
  EXPECT_EQ(image.fixed[0].bytes + block + std::string(12, '\0'), expected);
  EXPECT_EQ(expected.size(), 192U);
  EXPECT_EQ(parse(expected).data_start, 160U);
}

TEST(Gguf, ReadsAFileOfLlamaCppAndWritesTheSameHeader) {
  const std::filesystem::path path = std::filesystem::path(HALFQUAD_GOLDEN_DIR) / "formats/tiny_llama/q4_1.gguf";
  const std::string bytes = test::get_file(path);
  const std::unique_ptr<FileSystem> fs = make_posix_file_system();

  const GgufHeader header = read_gguf_header(*fs->open_read(path, ReadMode::kBuffered), path.string());
  const FileImage image = gguf_image(header);

  EXPECT_EQ(header.keys.size(), 25U);
  EXPECT_EQ(std::get<std::string>(*header.find("tokenizer.ggml.pre")), "smollm");
  ASSERT_EQ(header.tensors.size(), 20U);
  EXPECT_EQ(header.tensors[2].name, "blk.0.ffn_down.weight");
  EXPECT_EQ(header.tensors[2].dims, (std::vector<std::int64_t>{96, 64}));
  EXPECT_EQ(header.tensors[2].type, 3U);
  EXPECT_EQ(header.tensors[2].bytes(), 3840U);
  EXPECT_EQ(image.bytes, bytes.size());
  EXPECT_EQ(image.fixed.at(0).bytes, bytes.substr(0, header.data_start));
  for (std::size_t i = 0; i < header.tensors.size(); ++i) {
    EXPECT_EQ(image.offsets[i], header.data_start + header.tensors[i].offset);
  }
}

TEST(Gguf, PlacesTensorsAtTheAlignmentOfTheHeader) {
  GgufHeader header;
  header.alignment = 128;
  header.keys = {{"general.alignment", std::uint32_t{128}}};
  header.tensors = {{"a", {3}, 0, 0}, {"b", {2, 0}, 0, 0}, {"c", {32, 5}, 3, 0}};

  FileImage image = gguf_image(header);
  std::string bytes = std::move(image.fixed.at(0).bytes);
  bytes.resize(image.bytes);

  EXPECT_EQ(image.offsets, (std::vector<std::uint64_t>{256, 384, 384}));
  EXPECT_EQ(image.bytes, 512U);
  EXPECT_EQ(parse(bytes).alignment, 128U);
}

TEST(GgufImage, RefusesWhatReadersWouldRefuse) {
  const auto expect_refused = [](const char* reason, const auto& change) {
    GgufHeader header;
    header.keys = {{"k", std::uint32_t{1}}};
    header.tensors = {{"a", {32}, 3, 0}};
    change(header);
    expect_error(ErrorCode::kBadInput, {reason}, [&] { static_cast<void>(gguf_image(header)); });
  };

  expect_refused("the key \"k\" twice", [](GgufHeader& h) { h.keys.push_back({"k", true}); });
  expect_refused("a key named \"\"", [](GgufHeader& h) { h.keys.push_back({"", true}); });
  expect_refused("array of arrays", [](GgufHeader& h) { h.keys.push_back({"n", GgufArray(std::monostate())}); });
  expect_refused("the tensor \"a\" twice", [](GgufHeader& h) { h.tensors.push_back({"a", {32}, 3, 0}); });
  expect_refused("a name of 64 bytes", [](GgufHeader& h) { h.tensors[0].name = std::string(64, 'x'); });
  expect_refused("a type or shape", [](GgufHeader& h) { h.tensors[0].dims = {33}; });
  expect_refused("a type or shape", [](GgufHeader& h) { h.tensors[0].dims = {32, 1, 1, 1, 1}; });
  expect_refused("a type or shape", [](GgufHeader& h) { h.tensors[0].type = 5; });
  expect_refused("disagree", [](GgufHeader& h) { h.alignment = 64; });
  expect_refused("disagree", [](GgufHeader& h) { h.keys.push_back({"general.alignment", std::uint32_t{64}}); });
  expect_refused("version 1", [](GgufHeader& h) { h.version = 1; });
}

TEST(GgmlTypes, HaveTheSizesOfTheirBlocks) {
  const std::vector<std::int64_t> row = {256, 3};

  EXPECT_EQ(ggml_bytes(ggml_type(GgmlTypeId::kF32), row), 3072U);
  EXPECT_EQ(ggml_bytes(ggml_type(GgmlTypeId::kBF16), row), 1536U);
  EXPECT_EQ(ggml_bytes(ggml_type(GgmlTypeId::kQ4_0), row), 432U);
  EXPECT_EQ(ggml_bytes(ggml_type(GgmlTypeId::kQ4_K), row), 432U);
  EXPECT_EQ(ggml_bytes(ggml_type(GgmlTypeId::kQ6_K), row), 630U);
  EXPECT_EQ(ggml_bytes(ggml_type(GgmlTypeId::kQ2_K), row), 252U);
  EXPECT_FALSE(ggml_bytes(ggml_type(GgmlTypeId::kQ4_K), std::vector<std::int64_t>{128, 2}).has_value());
  EXPECT_EQ(find_ggml_type(36), nullptr);
  EXPECT_TRUE(std::is_sorted(ggml_types().begin(), ggml_types().end(),
                             [](const GgmlType& a, const GgmlType& b) { return a.id < b.id; }));
}

}  // namespace
}  // namespace halfquad
