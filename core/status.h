// Status propagation across rooms. Every fallible function returns absl::Status or absl::StatusOr;
// messages name the offending thing and the remedy, never an absolute host path.
#ifndef QUANTD_CORE_STATUS_H_
#define QUANTD_CORE_STATUS_H_

#include <utility>

#include "absl/status/status.h"
#include "absl/status/statusor.h"

#define QUANTD_CONCAT_INNER(a, b) a##b
#define QUANTD_CONCAT(a, b) QUANTD_CONCAT_INNER(a, b)

// Returns from the enclosing function when `expr` is not OK.
#define RETURN_IF_ERROR(expr)                                           \
  do {                                                                  \
    if (absl::Status returned_status = (expr); !returned_status.ok()) { \
      return returned_status;                                           \
    }                                                                   \
  } while (false)

#define QUANTD_ASSIGN_OR_RETURN_IMPL(tmp, lhs, expr) \
  auto tmp = (expr);                                 \
  if (!tmp.ok()) {                                   \
    return std::move(tmp).status();                  \
  }                                                  \
  lhs = std::move(tmp).value()

// Declares or assigns `lhs` from a StatusOr, or returns its error.
#define ASSIGN_OR_RETURN(lhs, expr) \
  QUANTD_ASSIGN_OR_RETURN_IMPL(QUANTD_CONCAT(status_or_, __LINE__), lhs, expr)

#endif  // QUANTD_CORE_STATUS_H_
