#include <algorithm>
#include <filesystem>
#include <string>
#include <vector>

#include <gtest/gtest.h>

#include "io/journal.h"
#include "io/output_directory.h"
#include "sharding/resume.h"
#include "tests/support/expect_error.h"
#include "tests/unit/sharding/runner_fixture.h"

namespace halfquad {
namespace {

using test::ModelLayer;
using test::RunnerModel;

std::vector<ModelLayer> one_layer(QuantSpec spec = {}) { return {{"layer", 64, 128, DType::kBF16, spec}}; }

RunnerModel model_of(const std::vector<ModelLayer>& layers, DType stored = DType::kF16) {
  return {layers, std::vector<test::TestTensor>{test::random_tensor("kept", DType::kU8, {70})}, stored};
}

Fingerprint fingerprint_of_model(const RunnerModel& model) {
  return fingerprint_of(model.checkpoint(), model.layout(), "error", "1.0");
}

TEST(Fingerprint, NamesWhatDiffers) {
  const RunnerModel model = model_of(one_layer());
  const Fingerprint ours = fingerprint_of_model(model);
  const auto against = [&](const Fingerprint& theirs) { return differences(ours, theirs); };

  EXPECT_EQ(against(fingerprint_of_model(model_of(one_layer()))), "");
  EXPECT_EQ(against(fingerprint_of(model.checkpoint(), model.layout(), "zero", "1.0")), "--nonfinite");
  EXPECT_EQ(against(fingerprint_of(model.checkpoint(), model.layout(), "error", "1.1")), "halfquad version");
  EXPECT_EQ(against(fingerprint_of(model.checkpoint(), model.layout(), "error", "1.0", "0123")), "the importance file");
  EXPECT_EQ(against(fingerprint_of(model.checkpoint(), model.layout(), "zero", "1.1")),
            "halfquad version, --nonfinite");
  EXPECT_EQ(against({}),
            "halfquad version, source, layers or their settings, --max-shard-size, --format, scale dtype, --nonfinite, "
            "the importance file");
}

TEST(Fingerprint, FollowsTheSourcesHeaderAndEveryPartOfASpec) {
  const RunnerModel model = model_of(one_layer());
  const Fingerprint ours = fingerprint_of_model(model);
  const RunnerModel other_source(one_layer(), std::vector<test::TestTensor>{}, DType::kF16);
  EXPECT_NE(differences(ours, fingerprint_of_model(other_source)).find("source"), std::string::npos);
  const std::string stored = differences(ours, fingerprint_of_model(model_of(one_layer(), DType::kBF16)));
  EXPECT_NE(stored.find("scale dtype"), std::string::npos);
  for (const QuantSpec& spec :
       {QuantSpec{.width = CodeWidth::k3}, QuantSpec{.group_size = 32}, QuantSpec{.axis = 0}, QuantSpec{.iters = 3},
        QuantSpec{.solver = SolverKind::kRtn}, QuantSpec{.lp_norm = 0.5F}, QuantSpec{.beta = 2},
        QuantSpec{.kappa = 1.5F}, QuantSpec{.channel_wise = false}, QuantSpec{.round_zero = true}}) {
    EXPECT_EQ(differences(ours, fingerprint_of_model(model_of(one_layer(spec)))), "layers or their settings");
  }
}

/// A model, its complete weight file and the records that belong to it.
class JobFolderTest : public ::testing::Test {
 protected:
  JobFolderTest() : model(model_of(one_layer())), folder(model.files(), temp.path()) {}

  std::filesystem::path place(const std::string& name) const { return temp.path() / kPrivateFolder / name; }
  void put_journal(const std::filesystem::path& path, const std::vector<ItemRecord>& records) {
    JournalWriter journal(model.files(), path);
    for (const ItemRecord& record : records) {
      WireWriter out;
      record.write(out);
      journal.append(out.take());
    }
    journal.close();
  }
  /// Of item 0, the tile.
  static ItemRecord record_of(std::uint64_t item, BlockSum block) {
    ItemRecord record;
    record.item = item;
    record.blocks = {block};
    return record;
  }

  test::TempDir temp;
  RunnerModel model;
  JobFolder folder;
};

TEST_F(JobFolderTest, KeepsAFingerprint) {
  EXPECT_FALSE(folder.fingerprint());

  folder.create(fingerprint_of_model(model));

  ASSERT_TRUE(folder.fingerprint());
  EXPECT_EQ(differences(fingerprint_of_model(model), *folder.fingerprint()), "");
}

TEST_F(JobFolderTest, HasNoFingerprintWhenTheDescriptionIsNotLegible) {
  folder.create(fingerprint_of_model(model));
  const std::string whole = test::get_file(place("job.json"));
  for (const std::string& text :
       {std::string(), whole.substr(0, whole.size() / 2), std::string("[1]"), std::string("{\"fingerprint\": 3}"),
        std::string("{\"fingerprint\": {\"a\": 3}}"), std::string(1 << 21, ' ')}) {
    test::put_file(place("job.json"), text);
    EXPECT_FALSE(folder.fingerprint()) << text.substr(0, 40);
  }
}

TEST_F(JobFolderTest, NumbersRunsUpwards) {
  folder.create(fingerprint_of_model(model));
  EXPECT_EQ(folder.next_run(), 0);
  EXPECT_EQ(folder.journal(3, 12), place("journal-0003-0012"));
  test::put_file(folder.journal(3, 12), "");
  test::put_file(folder.journal(0, 1), "");
  test::put_file(place("journal-x-1"), "");
  test::put_file(place("journal-9"), "");

  EXPECT_EQ(folder.next_run(), 4);
}

TEST_F(JobFolderTest, ReadsTheRecordsOfAllJournalsThatFitThePlan) {
  folder.create(fingerprint_of_model(model));
  put_journal(folder.journal(0, 0), {record_of(0, {0, 0, 1}), record_of(99, {0, 0, 2})});
  put_journal(folder.journal(1, 5), {record_of(1, {0, 50'000, 3}), record_of(1, {500, 0, 4}), record_of(1, {1, 0, 5})});
  put_journal(place("notes"), {record_of(0, {0, 0, 6})});
  std::string torn = test::get_file(folder.journal(0, 0));
  test::put_file(folder.journal(2, 0), torn.substr(0, 40));

  std::vector<std::uint64_t> hashes;
  for (const ItemRecord& record : folder.records(model.plan(), model.layout())) {
    hashes.push_back(record.blocks.at(0).hash);
  }

  std::sort(hashes.begin(), hashes.end());
  EXPECT_EQ(hashes, (std::vector<std::uint64_t>{1, 5}));
}

}  // namespace
}  // namespace halfquad
