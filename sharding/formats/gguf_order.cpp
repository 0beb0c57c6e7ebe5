#include "sharding/formats/gguf_order.h"

namespace halfquad {

RowOrder order_of(const GgufRows& rows) noexcept {
  RowOrder order{RowOrder::Kind::kSame, rows.head_rows, rows.first, rows.count};
  if (rows.order == GgufRows::Order::kInterleaved) order.kind = RowOrder::Kind::kInterleaved;
  if (rows.order == GgufRows::Order::kSlice) order.kind = RowOrder::Kind::kSlice;
  if (rows.order == GgufRows::Order::kTransposedSlice) order.kind = RowOrder::Kind::kTransposedSlice;
  return order;
}

bool has_whole_rows(const RowOrder& order) noexcept {
  return order.kind == RowOrder::Kind::kSame || order.kind == RowOrder::Kind::kInterleaved;
}

}  // namespace halfquad
