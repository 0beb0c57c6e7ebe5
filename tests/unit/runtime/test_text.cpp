#include <iomanip>
#include <limits>
#include <string>
#include <string_view>

#include <gtest/gtest.h>

#include "runtime/text.h"

namespace halfquad {
namespace {

using namespace std::string_view_literals;

TEST(Quoted, LeavesPlainNamesAlone) {
  EXPECT_EQ(quoted("model.layers.0.weight"), "\"model.layers.0.weight\"");
  EXPECT_EQ(quoted(""), "\"\"");
  EXPECT_EQ(quoted("größe-層-🦙"), "\"größe-層-🦙\"");
}

TEST(Quoted, IsNotShadowedByStdQuoted) {
  std::string name = "a\n";
  const std::string& same = name;

  EXPECT_EQ(quoted(name), R"("a\n")");
  EXPECT_EQ(quoted(same), R"("a\n")");
  EXPECT_EQ(quoted(std::string(name)), R"("a\n")");
}

TEST(Quoted, EscapesQuotesAndBackslashes) { EXPECT_EQ(quoted(R"(a"b\c)"), R"("a\"b\\c")"); }

TEST(Quoted, EscapesControlCharacters) {
  EXPECT_EQ(quoted("a\nb\rc\td"), R"("a\nb\rc\td")");
  EXPECT_EQ(quoted("\x1b[31mred\x1b[0m"), R"("\x1b[31mred\x1b[0m")");
  EXPECT_EQ(quoted("a\0b\x7f"sv), R"("a\x00b\x7f")");
}

TEST(Quoted, EscapesUnicodeThatSteersATerminal) {
  EXPECT_EQ(quoted("\u009b31m"), R"("\u009b31m")") << "the one-character CSI";
  EXPECT_EQ(quoted("a\u202eb\u2028c\u2066"), R"("a\u202eb\u2028c\u2066")");
}

TEST(Quoted, EscapesInvalidUtf8ByteForByte) {
  EXPECT_EQ(quoted("\xff\xfe"), R"("\xff\xfe")");
  EXPECT_EQ(quoted("a\xc3"), R"("a\xc3")") << "cut short";
  EXPECT_EQ(quoted("\xc0\xaf"), R"("\xc0\xaf")") << "overlong";
  EXPECT_EQ(quoted("\xed\xa0\x80"), R"("\xed\xa0\x80")") << "surrogate";
}

TEST(Quoted, CutsLongNamesBetweenCharacters) {
  EXPECT_EQ(quoted(std::string(200, 'a')), '"' + std::string(200, 'a') + '"');
  EXPECT_EQ(quoted(std::string(201, 'a')), '"' + std::string(200, 'a') + "\"...");
  EXPECT_EQ(quoted(std::string(199, 'a') + "ö"), '"' + std::string(199, 'a') + "\"...");
}

TEST(OneLine, EscapesLineBreaksAndKeepsTheRest) {
  EXPECT_EQ(one_line("tensor \"a\\b\"\nnext\x1b[2J"), "tensor \"a\\b\"\\nnext\\x1b[2J");
  EXPECT_EQ(one_line(std::string(500, 'x')).size(), 500U);
}

TEST(HumanBytes, PicksTheUnit) {
  EXPECT_EQ(human_bytes(0), "0 B");
  EXPECT_EQ(human_bytes(1023), "1023 B");
  EXPECT_EQ(human_bytes(1024), "1.0 KiB");
  EXPECT_EQ(human_bytes(1536), "1.5 KiB");
  EXPECT_EQ(human_bytes(2ULL << 30U), "2.0 GiB");
  EXPECT_EQ(human_bytes(std::numeric_limits<std::uint64_t>::max()), "16.0 EiB");
}

TEST(HumanBytes, NeverPrints1024OfAUnit) { EXPECT_EQ(human_bytes((1ULL << 20U) - 1), "1.0 MiB"); }

TEST(HumanDuration, ShowsHoursOnlyWhenThereAreSome) {
  EXPECT_EQ(human_duration(0), "00:00");
  EXPECT_EQ(human_duration(184), "03:04");
  EXPECT_EQ(human_duration(59.6), "01:00");
  EXPECT_EQ(human_duration(3600), "01:00:00");
  EXPECT_EQ(human_duration(93784), "26:03:04");
}

TEST(HumanDuration, SurvivesWhatIsNoDuration) {
  EXPECT_EQ(human_duration(-1), "--:--");
  EXPECT_EQ(human_duration(std::numeric_limits<double>::quiet_NaN()), "--:--");
  EXPECT_EQ(human_duration(std::numeric_limits<double>::infinity()), "--:--");
}

TEST(ParseBytes, ReadsPlainAndBinaryAndDecimalSizes) {
  EXPECT_EQ(parse_bytes("4096"), 4096U);
  EXPECT_EQ(parse_bytes("0"), 0U);
  EXPECT_EQ(parse_bytes("12b"), 12U);
  EXPECT_EQ(parse_bytes("512MiB"), 512ULL << 20U);
  EXPECT_EQ(parse_bytes("512m"), 512ULL << 20U);
  EXPECT_EQ(parse_bytes("5GB"), 5'000'000'000U);
  EXPECT_EQ(parse_bytes("5gb"), 5'000'000'000U);
  EXPECT_EQ(parse_bytes("3T"), 3ULL << 40U);
  EXPECT_EQ(parse_bytes("1tIb"), 1ULL << 40U);
  EXPECT_EQ(parse_bytes("2 GiB"), 2ULL << 30U) << "as human_bytes writes it";
}

TEST(ParseBytes, ReadsFractionsExactly) {
  EXPECT_EQ(parse_bytes("1.5g"), 3ULL << 29U);
  EXPECT_EQ(parse_bytes("0.29KB"), 290U);
  EXPECT_EQ(parse_bytes("1.001KB"), 1001U);
  EXPECT_EQ(parse_bytes("0.9999999999999999999999999999KB"), 999U);
}

TEST(ParseBytes, RefusesWhatIsNotASize) {
  for (const std::string_view text :
       {"",   " ",  "G",    "-1",   "+1",   "1.5", "1.G", ".5G",   "1,5G",   "0x10", "1e9", "1GiBs",
        "1 ", " 1", "1  G", "1K B", "1KBB", "1ib", "1 2", "1..5G", "1.5.5G", "nan",  "inf"}) {
    EXPECT_EQ(parse_bytes(text), std::nullopt) << '"' << text << '"';
  }
}

TEST(ParseBytes, RefusesWhatDoesNotFit64Bits) {
  EXPECT_EQ(parse_bytes("18446744073709551615"), std::numeric_limits<std::uint64_t>::max());
  EXPECT_EQ(parse_bytes("18446744073709551616"), std::nullopt);
  EXPECT_EQ(parse_bytes("99999999999999999999999"), std::nullopt);
  EXPECT_EQ(parse_bytes("16777215T"), 16777215ULL << 40U);
  EXPECT_EQ(parse_bytes("16777216T"), std::nullopt);
}

TEST(IsUtf8, AcceptsTheEdgesOfEveryLength) {
  for (const std::string_view text :
       {""sv, "\0\x7f"sv, "\u0080\u07ff"sv, "\u0800\ud7ff\ue000\uffff"sv, "\U00010000\U0010ffff"sv}) {
    EXPECT_TRUE(is_utf8(text)) << quoted(text);
  }
}

TEST(IsUtf8, RefusesMalformedSequences) {
  for (const std::string_view text : {"\x80"sv, "\xc1\xbf"sv, "\xe0\x9f\xbf"sv, "\xed\xa0\x80"sv, "\xf0\x8f\xbf\xbf"sv,
                                      "\xf4\x90\x80\x80"sv, "\xf5\x80\x80\x80"sv, "\xe2\x82"sv, "a\xc3("sv}) {
    EXPECT_FALSE(is_utf8(text)) << quoted(text);
  }
}

}  // namespace
}  // namespace halfquad
