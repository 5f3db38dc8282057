"""Calls a kernel for each of its chunks on a team of OpenMP threads, with no Python in between.

Threads that came back to Python for each chunk would pass the interpreter's lock around, which takes longer than a small
layer's convolution.

numba's cache notices a change of the file a kernel stands in, not of this one.
"""

from __future__ import annotations

from types import FunctionType

from llvmlite import ir
from numba.core import cgutils, types
from numba.extending import intrinsic

from i2p_zoo.sparse.kernels.compilation import compiled

_WORD = ir.IntType(64)
_POINTER = ir.IntType(8).as_pointer()
_kernel = None  # a global of each copy of `_run_kernel`


def team_kernel(kernel):
    """Compiles a kernel(chunk, start, stop, *args) and returns the function(team, chunks, *args) that runs it for all chunks.

    numba keeps code on disk by the file, line and name of a function and by the values of its closure. So the function stands
    where its kernel does, and has it as a global: in a closure a kernel would be another one in each process.
    """
    name = f"{kernel.__name__}_of_team"
    code = _run_kernel.__code__.replace(co_filename=kernel.__code__.co_filename, co_firstlineno=kernel.__code__.co_firstlineno)
    function = FunctionType(code, {"__name__": kernel.__module__, "run_team": run_team, "_kernel": compiled(kernel)}, name)
    function.__qualname__ = name
    return compiled(function)


def _run_kernel(team, chunks, *args):
    run_team(team, chunks, _kernel, args)


@intrinsic(prefer_literal=False)
def run_team(typingctx, team, chunks, kernel, args):
    """Calls kernel(number, start, stop, *args) for each row of `chunks` and waits for all of them.

    Args:
        team: (3,) int64, the addresses of GOMP_parallel, omp_get_thread_num and omp_get_num_threads; zeros to call all
            chunks from this thread.
        chunks: (n, 3) int64, C-contiguous.
        kernel: a jitted function.
        args: tuple.

    Raises:
        MemoryError: a call failed; all others are done then.
    """
    call = typingctx.resolve_function_type(kernel, (types.intp,) * 3 + tuple(args), {})
    signature = types.void(team, chunks, kernel, args)

    def generate(context, builder, signature, values):
        arg_types = signature.args
        addresses = context.make_array(arg_types[0])(context, builder, values[0]).data
        gomp, number_of, size_of = (builder.load(builder.gep(addresses, [_WORD(n)])) for n in range(3))
        table = context.make_array(arg_types[1])(context, builder, values[1])
        count = builder.extract_value(table.shape, 0)
        fields = [number_of, size_of, count, table.data, values[3], ir.Constant(_WORD, 0)]
        work = cgutils.alloca_once(builder, ir.LiteralStructType([field.type for field in fields]))
        for index, field in enumerate(fields):
            builder.store(field, cgutils.gep_inbounds(builder, work, 0, index))
        function = _work_of(context, builder, work.type, arg_types[2].dispatcher, call, arg_types[3])
        argument = builder.bitcast(work, _POINTER)
        with builder.if_else(builder.icmp_unsigned("==", gomp, _WORD(0))) as (alone, together):
            with alone:
                builder.call(function, [argument])
            with together:
                start_type = ir.FunctionType(ir.VoidType(), [function.type, _POINTER, ir.IntType(32), ir.IntType(32)])
                threads = builder.trunc(count, ir.IntType(32))
                start = builder.inttoptr(gomp, start_type.as_pointer())
                builder.call(start, [function, argument, threads, ir.IntType(32)(0)])
        failed = builder.load(cgutils.gep_inbounds(builder, work, 0, len(fields) - 1))
        with builder.if_then(builder.icmp_unsigned("!=", failed, _WORD(0))):
            context.call_conv.return_user_exc(
                builder, MemoryError, ("A kernel failed, most likely for want of memory for its buffers.",)
            )
        return context.get_dummy_value()

    return signature, generate


def _work_of(context, builder, work_type, dispatcher, call, args):
    """Emits what each thread of the team does: the chunks whose number is its own, modulo the number of threads."""
    compiled = dispatcher.get_compile_result(call)
    context.add_linking_libs([compiled.library])
    name = builder.module.get_unique_name("work_of_team")
    function = ir.Function(builder.module, ir.FunctionType(ir.VoidType(), [_POINTER]), name)
    function.linkage = "internal"
    inner = ir.IRBuilder(function.append_basic_block())
    work = inner.bitcast(function.args[0], work_type)

    def field(index):
        return cgutils.gep_inbounds(inner, work, 0, index)

    def ask(index, alone):
        """What an OpenMP function says, or `alone` where there is none."""
        address = inner.load(field(index))
        answer = cgutils.alloca_once_value(inner, _WORD(alone))
        with inner.if_then(inner.icmp_unsigned("!=", address, _WORD(0))):
            asked = inner.call(inner.inttoptr(address, ir.FunctionType(ir.IntType(32), []).as_pointer()), [])
            inner.store(inner.sext(asked, _WORD), answer)
        return inner.load(answer)

    first, step = ask(0, 0), ask(1, 1)
    rows, passed = inner.load(field(3)), inner.load(field(4))
    rest = [inner.extract_value(passed, index) for index in range(len(args))]
    with cgutils.for_range_slice(inner, first, inner.load(field(2)), step, inc=True) as (chunk, _):
        bounds = [inner.load(inner.gep(rows, [inner.add(inner.mul(chunk, _WORD(3)), _WORD(n))])) for n in range(3)]
        callee = context.declare_function(inner.module, compiled.fndesc)
        status, _ = context.call_conv.call_function(inner, callee, call.return_type, call.args, [*bounds, *rest])
        with inner.if_then(status.is_error):
            inner.store(_WORD(1), field(5))
    inner.ret_void()
    return function
