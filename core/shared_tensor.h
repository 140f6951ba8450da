// A tensor whose bytes lie where somebody else reads too: in a mapped file, or in an owner that
// several holders share.
#ifndef QUANTD_CORE_SHARED_TENSOR_H_
#define QUANTD_CORE_SHARED_TENSOR_H_

#include <functional>
#include <memory>
#include <utility>

#include "core/status.h"
#include "core/tensor.h"

namespace quantd {

struct SharedTensor {
  TensorView view;
  std::shared_ptr<const void> owner;    // of the bytes; they stay as long as it
  std::function<absl::Status()> check;  // empty: nobody else can change the bytes

  // To be asked after the bytes were used: DATA_LOSS when some of them may not have been the
  // file's.
  absl::Status CheckIntact() const { return check ? check() : absl::OkStatus(); }
};

inline SharedTensor Share(Tensor tensor) {
  auto owned = std::make_shared<const Tensor>(std::move(tensor));
  return {owned->view(), owned, nullptr};
}

}  // namespace quantd

#endif  // QUANTD_CORE_SHARED_TENSOR_H_
