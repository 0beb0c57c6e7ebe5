#include <algorithm>
#include <cstddef>
#include <cstdint>
#include <filesystem>
#include <string>
#include <vector>

#include <gtest/gtest.h>

#include "tests/support/temp_dir.h"

extern "C" int LLVMFuzzerTestOneInput(const std::uint8_t* data, std::size_t size);

namespace halfquad {
namespace {

/// Every input of the corpus, every beginning of it, and it with every byte flipped: a breach of the entry's contract
/// aborts the process.
TEST(FuzzCorpus, HoldsTheContractOnEveryInputAndItsNeighbours) {
  std::size_t inputs = 0;
  for (const auto& entry : std::filesystem::directory_iterator(HALFQUAD_CORPUS_DIR)) {
    const std::string text = test::get_file(entry.path());
    std::vector<std::uint8_t> bytes(text.begin(), text.end());
    for (std::size_t length = 0; length <= bytes.size(); ++length) {
      EXPECT_EQ(LLVMFuzzerTestOneInput(bytes.data(), length), 0);
    }
    for (std::uint8_t& byte : bytes) {
      byte ^= 0x55U;
      EXPECT_EQ(LLVMFuzzerTestOneInput(bytes.data(), bytes.size()), 0);
      byte ^= 0x55U;
    }
    ++inputs;
  }

  EXPECT_GE(inputs, 5U) << "the corpus in " << HALFQUAD_CORPUS_DIR << " is missing";
}

}  // namespace
}  // namespace halfquad
