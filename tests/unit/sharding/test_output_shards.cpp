#include <cstdint>
#include <map>
#include <set>
#include <string>
#include <string_view>
#include <vector>

#include <boost/json/value.hpp>
#include <gtest/gtest.h>

#include "header_checkpoint.h"
#include "io/json.h"
#include "io/safetensors_index.h"
#include "sharding/output_layout.h"
#include "sharding/resume.h"

namespace halfquad {
namespace {

constexpr std::uint64_t kOneFile = OutputLayout::kOneFile;

/// What a torch module holds itself: "a.b.weight", "a.b.bias" and "a.b.W_q" are a.b's.
std::string owner(std::string_view tensor) { return std::string(tensor.substr(0, tensor.rfind('.'))); }

/// A Llama-shaped model, some of its layers with a bias: next to the weight, before it, or at the end of the file.
std::vector<FakeTensor> biased_tensors() {
  std::vector<FakeTensor> tensors = llama_tensors();
  tensors.insert(tensors.begin(), {"model.layers.0.self_attn.k_proj.bias", {64}});
  tensors.insert(tensors.begin() + 7, {"model.layers.0.mlp.up_proj.bias", {96}});
  tensors.push_back({"model.layers.0.mlp.down_proj.bias", {64}});
  tensors.push_back({"empty", {0, 3}, DType::kF32});
  return tensors;
}

/// Layouts of one model under several limits.
class Shards : public ::testing::Test {
 protected:
  [[nodiscard]] OutputLayout layout(std::uint64_t max_shard_bytes) const {
    return OutputLayout(*checkpoint_, decide(*checkpoint_, parse_recipe(R"({"group_size": 32})", "test")), DType::kF16,
                        max_shard_bytes);
  }
  /// Modules in the order of the source, each with its bytes in the output.
  [[nodiscard]] std::vector<std::pair<std::string, std::uint64_t>> modules() const {
    std::map<std::string, std::uint64_t> bytes;
    const OutputLayout one = layout(kOneFile);
    for (const TensorEntry& entry : one.entries()) bytes[owner(entry.name)] += entry.bytes();
    std::vector<std::pair<std::string, std::uint64_t>> modules;
    std::set<std::string> seen;
    for (const SourceTensor& tensor : checkpoint_->tensors()) {
      if (seen.insert(owner(tensor.name)).second)
        modules.emplace_back(owner(tensor.name), bytes.at(owner(tensor.name)));
    }
    return modules;
  }
  /// From one byte to all: what cuts before, in and behind the largest module, and at the edges of what fits.
  [[nodiscard]] std::vector<std::uint64_t> limits() const {
    const std::uint64_t all = layout(kOneFile).data_bytes();
    return {0, 1, 3'000, 9'000, 20'000, 40'959, 40'960, 45'000, all / 2, all - 1, all, kOneFile};
  }
  static Fingerprint fingerprint(const Checkpoint& checkpoint, const OutputLayout& layout) {
    return fingerprint_of(checkpoint, layout, "error", "1.0");
  }

  HeaderCheckpoint checkpoint_{biased_tensors()};
};

TEST_F(Shards, HoldWholeModules) {
  for (const std::uint64_t limit : limits()) {
    SCOPED_TRACE(limit);
    const OutputLayout cut = layout(limit);
    std::map<std::string, std::set<std::string>> files;
    for (std::size_t i = 0; i < cut.entries().size(); ++i) {
      files[owner(cut.entries()[i].name)].insert(cut.file_of(i).name);
    }
    EXPECT_EQ(files.size(), modules().size());
    for (const auto& [module, names] : files) EXPECT_EQ(names.size(), 1U) << module;
  }
}

TEST_F(Shards, TakeModulesInSourceOrderAsLongAsTheyFit) {
  const auto modules = this->modules();
  std::size_t most_files = 0;
  for (const std::uint64_t limit : limits()) {
    SCOPED_TRACE(limit);
    const OutputLayout cut = layout(limit);
    std::map<std::string, std::size_t> file_of;
    for (std::size_t i = 0; i < cut.entries().size(); ++i) {
      file_of[owner(cut.entries()[i].name)] = cut.contents()[i].file;
    }
    std::size_t file = 0;
    std::uint64_t filled = 0;
    for (const auto& [module, bytes] : modules) {
      if (filled > 0 && bytes > 0 && filled + bytes > limit) {
        ++file;
        filled = 0;
      }
      filled += bytes;
      EXPECT_EQ(file_of.at(module), file) << module;
    }
    EXPECT_EQ(cut.files().size(), file + 1);
    most_files = std::max(most_files, cut.files().size());
  }
  EXPECT_GE(most_files, modules.size() - 1);  // the empty module is nowhere alone
}

TEST_F(Shards, AreWithinTheLimitUnlessTheyHoldASingleModule) {
  std::size_t larger = 0;
  for (const std::uint64_t limit : limits()) {
    SCOPED_TRACE(limit);
    const OutputLayout cut = layout(limit);
    for (const OutputFile& file : cut.files()) {
      if (file.data_bytes <= limit) continue;
      ++larger;
      std::set<std::string> inside;
      for (const TensorEntry& entry : cut.entries_of(file)) {
        if (entry.bytes() > 0) inside.insert(owner(entry.name));
      }
      EXPECT_EQ(inside.size(), 1U) << file.name;
    }
  }
  EXPECT_GT(larger, 10U);
}

TEST_F(Shards, AreNamedByTheirNumberAndOneFileIsNot) {
  EXPECT_EQ(layout(kOneFile).files()[0].name, "model.safetensors");
  const std::uint64_t all = layout(kOneFile).data_bytes();
  EXPECT_EQ(layout(all).files().size(), 1U);
  EXPECT_EQ(layout(all).files()[0].name, "model.safetensors");
  const OutputLayout two = layout(all - 1);
  ASSERT_EQ(two.files().size(), 2U);
  EXPECT_EQ(two.files()[0].name, "model-00001-of-00002.safetensors");
  EXPECT_EQ(two.files()[1].name, "model-00002-of-00002.safetensors");
}

TEST_F(Shards, EachHaveTheirOwnHeaderAndOffsetsFromZero) {
  for (const std::uint64_t limit : limits()) {
    SCOPED_TRACE(limit);
    const OutputLayout cut = layout(limit);
    std::size_t next = 0;
    std::uint64_t data = 0, all = 0;
    for (const OutputFile& file : cut.files()) {
      ASSERT_EQ(file.begin, next);
      ASSERT_GT(file.end, file.begin);
      next = file.end;
      const std::string header = serialize_safetensors_header(cut.entries_of(file), {{"format", "pt"}});
      ASSERT_EQ(file.image.fixed.size(), 1U);
      EXPECT_EQ(file.image.fixed[0].bytes, header) << file.name;
      // The strict parser refuses gaps, overlaps and a start other than 0.
      const SafetensorsHeader read =
          parse_safetensors_header(std::string_view(header).substr(8), file.data_bytes, file.name);
      EXPECT_EQ(read.tensors.size(), file.end - file.begin);
      EXPECT_EQ(read.metadata, (std::map<std::string, std::string>{{"format", "pt"}}));
      for (std::size_t i = file.begin; i < file.end; ++i) {
        EXPECT_EQ(cut.file_of(i).name, file.name);
        EXPECT_EQ(cut.file_offset(i), header.size() + cut.entries()[i].begin);
      }
      data += file.data_bytes;
      all += file.bytes();
    }
    EXPECT_EQ(next, cut.entries().size());
    EXPECT_EQ(cut.data_bytes(), data);
    EXPECT_EQ(cut.file_bytes(), all);
    EXPECT_EQ(data, layout(kOneFile).data_bytes());
  }
}

TEST_F(Shards, KeepTensorsAndTheirContentsTogether) {
  const OutputLayout cut = layout(9'000);
  ASSERT_GT(cut.files().size(), 3U);
  for (const QuantizedTensor& tensor : cut.quantized()) {
    EXPECT_EQ(cut.entries()[tensor.codes].name, tensor.module + ".W_q");
    EXPECT_EQ(cut.entries()[tensor.scale].name, tensor.module + ".scale");
    EXPECT_EQ(cut.entries()[tensor.zero].name, tensor.module + ".zero");
  }
  for (std::size_t i = 0; i < cut.entries().size(); ++i) {
    EXPECT_EQ(cut.contents()[i].blocks.total_bytes, cut.entries()[i].bytes()) << cut.entries()[i].name;
    if (cut.contents()[i].kind != OutputTensor::Kind::kCopy) continue;
    EXPECT_EQ(checkpoint_->tensors()[cut.contents()[i].source].name, cut.entries()[i].name);
  }
}

TEST_F(Shards, AreNamedTensorByTensorInTheIndex) {
  const OutputLayout cut = layout(9'000);

  const std::string text = index_text(cut);

  const std::map<std::string, std::string> index = parse_safetensors_index(text, "index");
  EXPECT_EQ(index.size(), cut.entries().size());
  for (std::size_t i = 0; i < cut.entries().size(); ++i) {
    EXPECT_EQ(index.at(cut.entries()[i].name), cut.file_of(i).name) << cut.entries()[i].name;
  }
  const boost::json::value json = parse_json(text, "index");
  EXPECT_EQ(json.at("metadata").at("total_size").to_number<std::uint64_t>(), cut.data_bytes());
}

TEST_F(Shards, HaveNoIndexWhenThereIsOnlyOne) { EXPECT_EQ(index_text(layout(kOneFile)), ""); }

TEST_F(Shards, OfAnotherLimitAreAnotherJobOnlyWhereTheCutDiffers) {
  const auto differ = [&](std::uint64_t one, std::uint64_t other) {
    return differences(fingerprint(*checkpoint_, layout(one)), fingerprint(*checkpoint_, layout(other)));
  };
  EXPECT_EQ(differ(9'000, kOneFile), "--max-shard-size");
  EXPECT_EQ(differ(9'000, 20'000), "--max-shard-size");
  EXPECT_EQ(differ(20'000, 20'000), "");
  EXPECT_EQ(differ(1ULL << 40, kOneFile), "");
  // As many files, cut elsewhere.
  const std::uint64_t all = layout(kOneFile).data_bytes();
  ASSERT_EQ(layout(all * 3 / 4).files().size(), layout(all - 1).files().size());
  EXPECT_EQ(differ(all * 3 / 4, all - 1), "--max-shard-size");
}

}  // namespace
}  // namespace halfquad
