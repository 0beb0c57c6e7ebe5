#include "io/torch_opcodes.h"

#include <array>
#include <string_view>

#include <fmt/format.h>

namespace halfquad {
namespace {

// Each name behind its character and before a space.
constexpr std::string_view kOfCharacters =
    "(MARK .STOP 0POP 1POP_MARK 2DUP FFLOAT IINT JBININT KBININT1 LLONG MBININT2 NNONE PPERSID QBINPERSID RREDUCE "
    "SSTRING TBINSTRING USHORT_BINSTRING VUNICODE XBINUNICODE aAPPEND bBUILD cGLOBAL dDICT }EMPTY_DICT eAPPENDS gGET "
    "hBINGET iINST jLONG_BINGET lLIST ]EMPTY_LIST oOBJ pPUT qBINPUT rLONG_BINPUT sSETITEM tTUPLE )EMPTY_TUPLE "
    "uSETITEMS "
    "GBINFLOAT BBINBYTES CSHORT_BINBYTES ";

constexpr unsigned kFirstHigh = 0x80;
constexpr std::array<std::string_view, 25> kHigh = {
    "PROTO",     "NEWOBJ",     "EXT1",        "EXT2",           "EXT4",      "TUPLE1",           "TUPLE2",
    "TUPLE3",    "NEWTRUE",    "NEWFALSE",    "LONG1",          "LONG4",     "SHORT_BINUNICODE", "BINUNICODE8",
    "BINBYTES8", "EMPTY_SET",  "ADDITEMS",    "FROZENSET",      "NEWOBJ_EX", "STACK_GLOBAL",     "MEMOIZE",
    "FRAME",     "BYTEARRAY8", "NEXT_BUFFER", "READONLY_BUFFER"};

}  // namespace

std::string opcode_name(unsigned char code) {
  if (code >= kFirstHigh && code - kFirstHigh < kHigh.size()) return std::string(kHigh[code - kFirstHigh]);
  std::string_view rest = kOfCharacters;
  while (!rest.empty()) {
    const std::string_view entry = rest.substr(0, rest.find(' '));
    if (static_cast<unsigned char>(entry[0]) == code) return std::string(entry.substr(1));
    rest.remove_prefix(entry.size() + 1);
  }
  return fmt::format("0x{:02x}", code);
}

}  // namespace halfquad
