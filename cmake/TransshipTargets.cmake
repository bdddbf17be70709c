# Every layer is one static library `ts_<layer>`; its tests are one binary `<layer>_test` of label `unit`.
# What takes longer is in `<layer>_stress_test` of label `stress`.

set(TS_WARNINGS -Wall -Wextra -Wpedantic -Wshadow -Wconversion -Werror)
if(CMAKE_CXX_COMPILER_ID MATCHES "Clang")
  list(APPEND TS_WARNINGS -Wthread-safety)
endif()
# The preset `fuzz` looks for other things; what clang warns of and gcc does not is the preset `clang`'s.
if(TS_LIBFUZZER)
  list(REMOVE_ITEM TS_WARNINGS -Werror)
endif()

# Objects, since a linker leaves out of a library what nobody refers to. The name of the log is followed by the pid;
# lab/labkit/deploy.py reads it.
add_library(ts_sanitized_test OBJECT ${CMAKE_SOURCE_DIR}/src/base/sanitizer_options.cc)
add_library(ts_sanitized_program OBJECT ${CMAKE_SOURCE_DIR}/src/base/sanitizer_options.cc)
target_compile_definitions(ts_sanitized_program PRIVATE TS_SANITIZER_LOG="/var/log/transship/sanitizer")

# ts_layer(NAME SOURCES… DEPENDS…): DEPENDS are libraries, ours (ts_base) or imported ones.
function(ts_layer name)
  cmake_parse_arguments(ARG "" "" "SOURCES;DEPENDS" ${ARGN})
  add_library(ts_${name} STATIC ${ARG_SOURCES})
  target_include_directories(ts_${name} PUBLIC ${CMAKE_SOURCE_DIR}/src)
  target_link_libraries(ts_${name} PUBLIC ${ARG_DEPENDS})
  target_compile_options(ts_${name} PRIVATE ${TS_WARNINGS})
endfunction()

# ts_program(NAME SOURCES… DEPENDS…)
function(ts_program name)
  cmake_parse_arguments(ARG "" "" "SOURCES;DEPENDS" ${ARGN})
  add_executable(${name} ${ARG_SOURCES})
  target_include_directories(${name} PRIVATE ${CMAKE_SOURCE_DIR}/src)
  target_link_libraries(${name} PRIVATE ts_sanitized_program ${ARG_DEPENDS})
  target_compile_options(${name} PRIVATE ${TS_WARNINGS})
  install(TARGETS ${name} RUNTIME DESTINATION bin)
endfunction()

# ts_unit_test(LAYER SOURCES… [DEPENDS…] [LOCK name]): no root, no network, no sleeping; quick. With LOCK, for what they all
# use of the host, such as a port: one after the other.
function(ts_unit_test layer)
  ts_test(${layer} ${layer}_test unit 60 ${ARGN})
endfunction()

# ts_stress_test(LAYER …): what runs for some time because it looks for what happens seldom. Not among the unit tests.
function(ts_stress_test layer)
  ts_test(${layer} ${layer}_stress_test stress 300 ${ARGN})
endfunction()

function(ts_test layer binary label timeout)
  cmake_parse_arguments(ARG "" "LOCK" "SOURCES;DEPENDS" ${ARGN})
  add_executable(${binary} ${ARG_SOURCES})
  target_include_directories(${binary} PRIVATE ${CMAKE_SOURCE_DIR}/src)
  target_link_libraries(${binary} PRIVATE ts_sanitized_test ${ARG_DEPENDS} GTest::gtest GTest::gmock GTest::gtest_main)
  target_compile_options(${binary} PRIVATE ${TS_WARNINGS})
  target_compile_definitions(${binary} PRIVATE TS_SOURCE_DIR="${CMAKE_SOURCE_DIR}")
  gtest_discover_tests(${binary} TEST_PREFIX ${layer}. DISCOVERY_TIMEOUT 60
    PROPERTIES LABELS ${label} TIMEOUT ${timeout} RESOURCE_LOCK "${ARG_LOCK}")
endfunction()
