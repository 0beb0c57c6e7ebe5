#include <string>

#include <gtest/gtest.h>

#include "io/safetensors_index.h"
#include "tests/support/expect_error.h"
#include "tests/support/test_checkpoint.h"

namespace halfquad {
namespace {

using test::expect_error;

struct Defect {
  const char* name;
  std::string text;
  const char* reason;
};

class MalformedIndex : public ::testing::TestWithParam<Defect> {};

TEST_P(MalformedIndex, IsRefusedWithItsOwnReason) {
  expect_error(ErrorCode::kBadInput, {"the index: ", GetParam().reason},
               [&] { static_cast<void>(parse_safetensors_index(GetParam().text, "the index")); });
}

std::string placed_in(const std::string& file) { return R"({"weight_map":{"t":")" + file + "\"}}"; }

INSTANTIATE_TEST_SUITE_P(
    Defects, MalformedIndex,
    ::testing::Values(
        Defect{"syntax", "{", "ends early"}, Defect{"not_object", "[]", "the index is not a JSON object"},
        Defect{"no_map", "{}", "no \"weight_map\""},
        Defect{"map_not_object", R"({"weight_map":[]})", "\"weight_map\" is not a JSON object"},
        Defect{"map_empty", R"({"weight_map":{}})", "\"weight_map\" names no tensor"},
        Defect{"duplicate", R"({"weight_map":{"t":"a","t":"a"}})", "duplicate key \"t\""},
        Defect{"file_not_string", R"({"weight_map":{"t":1}})", "the file of tensor \"t\" is not a string"},
        Defect{"file_empty", placed_in(""), "tensor \"t\" is said to be in \"\""},
        Defect{"file_absolute", placed_in("/etc/passwd"), "\"/etc/passwd\", which is not the name of a file"},
        Defect{"file_parent", placed_in("../x.safetensors"), "\"../x.safetensors\", which is not the name"},
        Defect{"file_below", placed_in("a/x.safetensors"), "\"a/x.safetensors\", which is not the name"},
        Defect{"file_dot", placed_in("."), "\".\", which is not the name"},
        Defect{"file_dots", placed_in(".."), "\"..\", which is not the name"},
        Defect{"file_nul", placed_in("a\\u0000b"), "which is not the name of a file"}),
    [](const auto& info) { return std::string(info.param.name); });

TEST(SafetensorsIndex, MapsTensorsToFiles) {
  const auto files =
      parse_safetensors_index(test::index_text({{"a", "x..y.safetensors"}, {"b", "2.safetensors"}}), "i");

  ASSERT_EQ(files.size(), 2U);
  EXPECT_EQ(files.at("a"), "x..y.safetensors");
  EXPECT_EQ(files.at("b"), "2.safetensors");
}

}  // namespace
}  // namespace halfquad
