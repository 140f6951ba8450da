// The project's version, as CMake knows it.
#ifndef QUANTD_SERVICE_VERSION_H_
#define QUANTD_SERVICE_VERSION_H_

namespace quantd {

inline constexpr char kVersion[] = QUANTD_VERSION;

}  // namespace quantd

#endif  // QUANTD_SERVICE_VERSION_H_
