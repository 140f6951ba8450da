// The OpenCL implementation of kernels/product_device.h.
#ifndef QUANTD_KERNELS_OPENCL_MATRIX_PRODUCT_H_
#define QUANTD_KERNELS_OPENCL_MATRIX_PRODUCT_H_

#include <memory>
#include <string>

#include "kernels/opencl/device.h"
#include "kernels/product_device.h"

namespace quantd {

// The `index`th device of ListOpenClDevices(); errors as OpenProductDevice.
absl::StatusOr<std::unique_ptr<ProductDevice>> OpenOpenClProducts(int index);

namespace opencl {

// With a queue and memory of its own. `id` as in ListOpenClDevices. What `device` says (kind,
// arithmetic, memory) is believed, so a test can change it.
absl::StatusOr<std::unique_ptr<ProductDevice>> CreateProducts(const Device& device, std::string id);

}  // namespace opencl
}  // namespace quantd

#endif  // QUANTD_KERNELS_OPENCL_MATRIX_PRODUCT_H_
