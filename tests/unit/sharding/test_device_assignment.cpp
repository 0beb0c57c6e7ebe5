#include <algorithm>
#include <string>
#include <vector>

#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include "sharding/device_assignment.h"

namespace halfquad {
namespace {

using testing::ElementsAre;
using testing::IsEmpty;
using testing::UnorderedElementsAre;

/// A rank that sees these devices.
DeviceView sees(const std::string& host, const std::vector<std::string>& devices,
                const std::vector<std::string>& near = {}) {
  DeviceView view{host, {}};
  for (const std::string& device : devices) {
    view.devices.push_back({device, "GPU", std::find(near.begin(), near.end(), device) != near.end()});
  }
  return view;
}

std::vector<std::vector<std::size_t>> assign(const std::vector<DeviceView>& ranks) { return assign_devices(ranks); }

TEST(AssignDevices, GivesARankThatIsAloneAllItSees) {
  EXPECT_THAT(assign({sees("h", {"a", "b", "c"})}), ElementsAre(ElementsAre(0, 1, 2)));
}

TEST(AssignDevices, DividesTheDevicesOfAHostEvenly) {
  const std::vector<std::string> four = {"a", "b", "c", "d"};

  EXPECT_THAT(assign({sees("h", four), sees("h", four)}), ElementsAre(ElementsAre(0, 1), ElementsAre(2, 3)));
  EXPECT_THAT(assign({sees("h", four), sees("h", four), sees("h", four)}),
              ElementsAre(ElementsAre(0, 3), ElementsAre(1), ElementsAre(2)));
  EXPECT_THAT(assign({sees("h", four), sees("h", four), sees("h", four), sees("h", four)}),
              ElementsAre(ElementsAre(0), ElementsAre(1), ElementsAre(2), ElementsAre(3)));
}

TEST(AssignDevices, LetsRanksShareWhenThereAreMoreOfThem) {
  const std::vector<std::string> two = {"a", "b"};

  EXPECT_THAT(assign({sees("h", two), sees("h", two), sees("h", two), sees("h", two), sees("h", two)}),
              ElementsAre(ElementsAre(0), ElementsAre(1), ElementsAre(0), ElementsAre(1), ElementsAre(0)));
}

TEST(AssignDevices, KeepsHostsApart) {
  EXPECT_THAT(assign({sees("h", {"a"}), sees("i", {"a"}), sees("j", {}), sees("h", {"a"})}),
              ElementsAre(ElementsAre(0), ElementsAre(0), IsEmpty(), ElementsAre(0)));
}

// As a batch system does it that shows each task its own devices, all numbered from 0.
TEST(AssignDevices, RespectsWhatEachRankSees) {
  EXPECT_THAT(assign({sees("h", {"c"}), sees("h", {"a"}), sees("h", {"d", "b"})}),
              ElementsAre(ElementsAre(0), ElementsAre(0), ElementsAre(0, 1)));
  EXPECT_THAT(assign({sees("h", {"a", "b"}), sees("h", {"b"})}), ElementsAre(ElementsAre(0), ElementsAre(0)));
}

TEST(AssignDevices, PrefersDevicesNearTheRank) {
  const std::vector<std::string> four = {"a", "b", "c", "d"};

  EXPECT_THAT(assign({sees("h", four, {"c", "d"}), sees("h", four, {"a", "b"})}),
              ElementsAre(ElementsAre(2, 3), ElementsAre(0, 1)));
  EXPECT_THAT(assign({sees("h", four, {"a", "b"}), sees("h", four, {"a", "b"})}),
              ElementsAre(ElementsAre(0, 1), ElementsAre(2, 3)));
}

TEST(AssignDevices, GivesEveryDeviceToSomeRank) {
  // Two see everything, one only what is left over after an even division.
  const auto assigned = assign({sees("h", {"a"}), sees("h", {"a", "b", "c", "d", "e"})});

  EXPECT_THAT(assigned[0], ElementsAre(0));
  EXPECT_THAT(assigned[1], UnorderedElementsAre(1, 2, 3, 4));
}

}  // namespace
}  // namespace halfquad
