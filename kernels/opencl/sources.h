// The texts of the .cl files of this folder, embedded by quantd_embed_cl (cmake/EmbedCl.cmake).
#ifndef QUANTD_KERNELS_OPENCL_SOURCES_H_
#define QUANTD_KERNELS_OPENCL_SOURCES_H_

namespace quantd::opencl::source {

extern const char attention[];
extern const char attention_block[];
extern const char elementwise[];
extern const char embed[];
extern const char epilogue[];
extern const char fp4_inputs[];
extern const char linear_block[];
extern const char linear_gemm[];
extern const char linear_gemv[];
extern const char matrix_product[];
extern const char norm[];
extern const char round_inputs[];
extern const char weights[];
extern const char work_group[];

}  // namespace quantd::opencl::source

#endif  // QUANTD_KERNELS_OPENCL_SOURCES_H_
