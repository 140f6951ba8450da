# quantd_embed_cl(TARGET FILE.cl...): compiles each FILE.cl into TARGET as
# `const char quantd::opencl::source::FILE[]`, declared in kernels/opencl/sources.h. A changed .cl is embedded again.
#
# The file is also the script that writes one source: cmake -DINPUT=x.cl -DOUTPUT=x.cl.cc -DNAME=x -P EmbedCl.cmake
if(CMAKE_SCRIPT_MODE_FILE)
  file(READ "${INPUT}" text)
  string(FIND "${text}" ")CLC\"" delimiter)
  if(NOT delimiter EQUAL -1)
    message(FATAL_ERROR "${INPUT} contains the delimiter of the raw string")
  endif()
  file(WRITE "${OUTPUT}" "#include \"kernels/opencl/sources.h\"\n\nnamespace quantd::opencl::source {\n\n"
       "const char ${NAME}[] = R\"CLC(${text})CLC\";\n\n}  // namespace quantd::opencl::source\n")
  return()
endif()

set(QUANTD_EMBED_CL_SCRIPT ${CMAKE_CURRENT_LIST_FILE})

function(quantd_embed_cl target)
  foreach(file ${ARGN})
    get_filename_component(name ${file} NAME_WE)
    set(input ${CMAKE_CURRENT_SOURCE_DIR}/${file})
    set(output ${CMAKE_CURRENT_BINARY_DIR}/${name}.cl.cc)
    add_custom_command(
      OUTPUT ${output}
      COMMAND ${CMAKE_COMMAND} -DINPUT=${input} -DOUTPUT=${output} -DNAME=${name} -P ${QUANTD_EMBED_CL_SCRIPT}
      DEPENDS ${input} ${QUANTD_EMBED_CL_SCRIPT}
      COMMENT "Embedding ${file}"
      VERBATIM)
    target_sources(${target} PRIVATE ${output})
  endforeach()
endfunction()
