# quantd_room(NAME SOURCES ... PUBLIC ... PRIVATE ...): one static library per folder, with the project's warnings.
function(quantd_compile_options target)
  target_include_directories(${target} PUBLIC $<BUILD_INTERFACE:${CMAKE_SOURCE_DIR}>)
  target_compile_options(${target} PRIVATE -Wall -Wextra -Werror -Wno-unused-parameter -Wno-missing-field-initializers
                         -fvisibility=hidden
                                           # Quantized bytes must not depend on how a compiler contracts a*b+c.
                                           -ffp-contract=off)
  if(CMAKE_CXX_COMPILER_ID STREQUAL "GNU")
    # Debian's Abseil and the intrinsics headers of GCC 12 trip these (GCC bugs 105562, 105593).
    target_compile_options(${target} PRIVATE -Wno-maybe-uninitialized)
  endif()
  if(QUANTD_BUILD_FUZZERS)
    # Coverage of the libraries too: without it the fuzzer sees only its own file.
    target_compile_options(${target} PRIVATE -fsanitize=fuzzer-no-link)
  endif()
  if(QUANTD_SANITIZE)
    target_compile_options(${target} PRIVATE -fsanitize=${QUANTD_SANITIZE} -fno-omit-frame-pointer)
    if(NOT QUANTD_SANITIZE STREQUAL "thread")
      target_compile_options(${target} PRIVATE -fno-sanitize-recover=all)
    endif()
    target_link_options(${target} PUBLIC -fsanitize=${QUANTD_SANITIZE})
  endif()
endfunction()

# What nearly every file includes, parsed once per target. A third of a cold build's time.
function(quantd_precompile target)
  if(QUANTD_PRECOMPILE)
    target_precompile_headers(${target} PRIVATE <algorithm> <cmath> <cstdint> <cstring> <functional> <map> <memory> <optional>
                              <span> <string> <utility> <vector> <absl/status/statusor.h> <absl/strings/str_cat.h> ${ARGN})
  endif()
endfunction()

# PRECOMPILE HEADERS: further headers of the precompiled one.
function(quantd_room name)
  cmake_parse_arguments(ARG "" "" "SOURCES;PUBLIC;PRIVATE;PRECOMPILE" ${ARGN})
  add_library(${name} STATIC ${ARG_SOURCES})
  quantd_compile_options(${name})
  target_link_libraries(${name} PUBLIC ${ARG_PUBLIC} PRIVATE ${ARG_PRIVATE})
  quantd_precompile(${name} ${ARG_PRECOMPILE})
endfunction()

function(quantd_executable name)
  cmake_parse_arguments(ARG "" "" "SOURCES;LIBS" ${ARGN})
  add_executable(${name} ${ARG_SOURCES})
  quantd_compile_options(${name})
  target_link_libraries(${name} PRIVATE ${ARG_LIBS})
endfunction()

# quantd_test(NAME SOURCES ... LIBS ...): a GoogleTest program, registered as one ctest entry. Data is found by
# tests/test_data.h. The tests' own code needs no speed: it is optimized little, so that it compiles fast.
function(quantd_test name)
  cmake_parse_arguments(ARG "" "" "SOURCES;LIBS" ${ARGN})
  add_executable(${name} ${ARG_SOURCES})
  quantd_compile_options(${name})
  target_compile_options(${name} PRIVATE $<$<CONFIG:Release>:-O1>)
  target_link_libraries(${name} PRIVATE ${ARG_LIBS} quantd_test_data GTest::gtest GTest::gmock GTest::gtest_main)
  quantd_precompile(${name} <gtest/gtest.h> <gmock/gmock.h>)
  add_test(NAME ${name} COMMAND ${name})
endfunction()

# quantd_fuzzer(NAME SOURCE LIBS ...): a libFuzzer target in build/fuzz/bin/NAME.
function(quantd_fuzzer name source)
  cmake_parse_arguments(ARG "" "" "LIBS" ${ARGN})
  if(QUANTD_BUILD_FUZZERS)
    add_executable(${name} ${source})
    quantd_compile_options(${name})
    target_compile_options(${name} PRIVATE -fsanitize=fuzzer)
    target_link_options(${name} PRIVATE -fsanitize=fuzzer)
    target_link_libraries(${name} PRIVATE ${ARG_LIBS})
  endif()
endfunction()
